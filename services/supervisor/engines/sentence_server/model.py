"""What the server needs of a model, and vectors in the forms that clients request."""

import base64
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.base import Record

Vector = NDArray[np.float32]
Pair = tuple[str, str]


class ModelProblem(Exception):
    """The model cannot be served; the message is the reason."""


class EmbeddedText(Record):
    """A text as a vector, and its number of tokens."""

    vector: Vector
    tokens: int


class ScoredPair(Record):
    """How well a document answers a query, and the tokens of both."""

    score: float
    tokens: int


class Encoder(Protocol):
    """A model for embeddings. Called from one thread."""

    dimensions: int
    tasks: tuple[str, ...]
    """Names of the prompts that it was trained with."""

    def embed(self, task: str | None, texts: Sequence[str]) -> Sequence[EmbeddedText]:
        """One unnormalized vector a text."""
        ...


class Ranker(Protocol):
    """A model for reranking. Called from one thread."""

    def score(self, kind: None, pairs: Sequence[Pair]) -> Sequence[ScoredPair]:
        """One score a pair of query and document."""
        ...


def cut(vector: Vector, dimensions: int | None, *, normalize: bool) -> Vector:
    """The first `dimensions`, normalized after the cut."""
    shorter = vector[:dimensions]
    length = float(np.linalg.norm(shorter))
    return shorter / np.float32(length) if normalize and length > 0 else shorter


def encode(vector: Vector, encoding: str) -> list[float] | str:
    """Numbers, or the base64 of little-endian float32, as OpenAI's clients decode it."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(number) for number in vector]
