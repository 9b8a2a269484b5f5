"""Writes a GGUF file atomically, and the weights of tiny models."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]


@contextmanager
def new_gguf(path: Path, architecture: str, name: str, description: str) -> Iterator[gguf.GGUFWriter]:
    """A writer; the file appears at `path` when the block ends without an error."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(unfinished, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_description(description)
    writer.add_organization("Modelyard")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        unfinished.replace(path)
    finally:
        writer.close()
        unfinished.unlink(missing_ok=True)


def zeros(*shape: int) -> Weights:
    return np.zeros(shape, dtype=np.float32)


def ones(*shape: int) -> Weights:
    return np.ones(shape, dtype=np.float32)


def uniform(random: np.random.Generator, *shape: int, spread: float) -> Weights:
    """Uniform random weights in [-spread, spread)."""
    return (random.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(2 * spread)
