"""What the server needs of a model, and the real one behind it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.base import Record

Vector = NDArray[np.float32]
Pair = tuple[str, str]


class ModelProblem(Exception):
    """The model cannot be served; the message says why."""


class Embedded(Record):
    """A text as a vector, and how many tokens it was."""

    vector: Vector
    tokens: int


class Scored(Record):
    """How well a document answers a query, and how many tokens both were."""

    score: float
    tokens: int


class Encoder(Protocol):
    """A model for embeddings. Called from one thread."""

    dimensions: int
    tasks: tuple[str, ...]
    """Names of the prompts that it was trained with."""

    def embed(self, task: str | None, texts: Sequence[str]) -> Sequence[Embedded]:
        """A vector for each text, as the model gives it."""
        ...


class Ranker(Protocol):
    """A model for reranking. Called from one thread."""

    def score(self, kind: None, pairs: Sequence[Pair]) -> Sequence[Scored]:
        """A score for each pair of query and document."""
        ...
