"""Models that end-to-end tests register, and their files."""

import sys
from pathlib import Path
from typing import Any

from modelyard.files.tinymodels import write_babbler, write_embedder, write_reranker
from schemas.models import Mode, ModelSpec
from tests import scripted_engine
from tests.e2e.yard_process import YardProcess

SLOW = "test/slow"


def scripted_model(name: str, *behaviour: str, **fields: Any) -> ModelSpec:
    """A model of the engine `tests/scripted_engine.py` with the given behaviour."""
    program = (sys.executable, "-S", "-E", "-u", scripted_engine.__file__, "{port}", *behaviour)
    return ModelSpec(name=name, path="no/file", engine="command", args=program, **fields)


async def put_slow(
    yard: YardProcess, gguf: Path, *, name: str = SLOW, n_parallel: int = 2, **fields: Any
) -> None:
    """Register the slow model."""
    if not (yard.models / "test" / "slow.gguf").exists():
        link_model_file(gguf, yard.home, "slow")
    await yard.put(ModelSpec(name=name, path="test/slow.gguf", n_parallel=n_parallel, **fields))


async def put_vectors(yard: YardProcess) -> None:
    """Register `embed`, with the alias `vectors`, and `rerank`."""
    (yard.models / "test").mkdir()
    write_embedder(yard.models / "test" / "embed.gguf")
    write_reranker(yard.models / "test" / "rerank.gguf")
    await yard.put(
        ModelSpec(name="embed", path="test/embed.gguf", mode=Mode.EMBEDDING, n_ctx=512, aliases=("vectors",))
    )
    await yard.put(ModelSpec(name="rerank", path="test/rerank.gguf", mode=Mode.RERANK, n_ctx=512))


def link_model_file(gguf: Path, home: Path, name: str) -> None:
    """Link a model's file into the store of `home`."""
    _place(home, name).hardlink_to(gguf)


def write_tiny_model(home: Path, name: str, *, n_embd: int = 64) -> ModelSpec:
    """A small model's file in the store of `home`, and its spec."""
    write_babbler(_place(home, name), n_embd=n_embd, n_layer=2, n_ff=2 * n_embd)
    return ModelSpec(name=name, path=f"test/{name}.gguf", n_ctx=512, n_parallel=1)


def _place(home: Path, name: str) -> Path:
    place = home / "models" / "test" / f"{name}.gguf"
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
