"""Yards for end-to-end tests: one a module, or a new one for a test that breaks it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modelyard.files.tinymodels import write_babbler
from tests.e2e.yard_process import YardProcess, running_yard


@pytest.fixture(scope="session")
def slow_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends its answer and is slow enough to be interrupted."""
    path = tmp_path_factory.mktemp("gguf") / "slow.gguf"
    write_babbler(path, n_embd=512, n_layer=8, n_ff=2048)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    """For modules whose tests run in the module's loop."""
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        yield yard


@pytest.fixture
async def new_yard(tmp_path: Path) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path / "home") as yard:
        yield yard
