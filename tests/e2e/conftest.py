"""One yard for the tests that leave it as it was; those that break it start their own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.files.tinymodels import write_babbler, write_embedder, write_reranker
from schemas.models import Mode, ModelSpec
from tests.e2e.yard_process import YardProcess, running_yard

SLOW = "test/slow"


@pytest.fixture(scope="session")
def slow_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never stops by itself and is slow enough to be interrupted."""
    path = tmp_path_factory.mktemp("gguf") / "slow.gguf"
    write_babbler(path, n_embd=512, n_layer=8, n_ff=2048)
    return path


async def put_slow(
    yard: YardProcess, gguf: Path, *, name: str = SLOW, n_parallel: int = 2, **more: Any
) -> None:
    """Register the slow model."""
    place = yard.models / "test" / "slow.gguf"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.hardlink_to(gguf)
    await yard.put(ModelSpec(name=name, path="test/slow.gguf", n_parallel=n_parallel, **more))


async def put_vectors(yard: YardProcess) -> None:
    """Register `embed`, also called `vectors`, and `rerank`."""
    (yard.models / "test").mkdir()
    write_embedder(yard.models / "test" / "embed.gguf")
    write_reranker(yard.models / "test" / "rerank.gguf")
    await yard.put(
        ModelSpec(name="embed", path="test/embed.gguf", mode=Mode.EMBEDDING, n_ctx=512, aliases=("vectors",))
    )
    await yard.put(ModelSpec(name="rerank", path="test/rerank.gguf", mode=Mode.RERANK, n_ctx=512))


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path / "home") as yard:
        yield yard
