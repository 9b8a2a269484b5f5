"""Vectors as clients want them: cut, of length one, as numbers or as base64."""

import base64

import numpy as np

from services.supervisor.engines.sentence_server.model import Vector


def shaped(vector: Vector, dimensions: int | None, *, normalize: bool) -> Vector:
    """Cut first, then of length one: the rest of a vector counts no more."""
    cut = vector[:dimensions]
    length = float(np.linalg.norm(cut))
    return cut / np.float32(length) if normalize and length > 0 else cut


def encoded(vector: Vector, encoding: str) -> list[float] | str:
    """`base64` is of little-endian float32, as OpenAI's clients read it."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(number) for number in vector]
