"""A hub with one small and one large file, and their destination."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.downloader.transfer.file_transfer import open_session
from tests.hub import Hub, HubFile
from tests.integration.transfer.support import CONTENT, LARGE, NAME


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        hub.add_repo(NAME, {"m-Q4_0.gguf": CONTENT})
        yield hub


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture
def remote(hub: Hub) -> HubFile:
    return hub.file(NAME, "m-Q4_0.gguf")


@pytest.fixture
def large(hub: Hub) -> HubFile:
    hub.add_repo(NAME, {"large-Q4_0.gguf": LARGE})
    return hub.file(NAME, "large-Q4_0.gguf")


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "store" / "m-Q4_0.gguf"
