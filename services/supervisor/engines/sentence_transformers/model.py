"""What the server needs of a model, vectors in the forms that clients request, and dynamic batching."""

import asyncio
import base64
import collections
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.base import Record

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

Vector = NDArray[np.float32]
Pair = tuple[str, str]


class ModelProblem(Exception):
    """The model cannot be served; the message is the reason."""


class EmbeddedText(Record):
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


class _Waiting(NamedTuple, Generic[K, T, R]):
    kind: K
    item: T
    result: "asyncio.Future[R]"


class Batcher(Generic[K, T, R]):
    """Batches items of one kind that wait at the same time; cancelled items are dropped.

    The next batch collects while the current one is computed, so there is no batching delay.
    """

    def __init__(self, compute: Callable[[K, Sequence[T]], Sequence[R]], size: int) -> None:
        self._compute = compute
        self._size = size
        self._waiting: collections.deque[_Waiting[K, T, R]] = collections.deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    async def run(self, kind: K, items: Sequence[T]) -> list[R]:
        """The results in order, or the exception of `compute`. Cancelling drops the items."""
        loop = asyncio.get_running_loop()
        submitted = [_Waiting[K, T, R](kind, item, loop.create_future()) for item in items]
        self._waiting.extend(submitted)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await asyncio.gather(*(waiting.result for waiting in submitted))

    async def close(self) -> None:
        """Drop all waiting items; the batch being computed cannot be interrupted."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            items = [waiting.item for waiting in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._compute, batch[0].kind, items)
            except Exception as error:  # noqa: BLE001 - every waiting caller gets it
                _set_results(batch, [error] * len(batch))
            else:
                _set_results(batch, results)

    def _next(self) -> list[_Waiting[K, T, R]]:
        """A batch of the kind that has waited longest, in order; items of other kinds stay."""
        batch: list[_Waiting[K, T, R]] = []
        others: list[_Waiting[K, T, R]] = []
        while self._waiting and len(batch) < self._size:
            waiting = self._waiting.popleft()
            if waiting.result.done():
                continue
            (batch if not batch or waiting.kind == batch[0].kind else others).append(waiting)
        self._waiting.extendleft(reversed(others))
        return batch


def _set_results(batch: Sequence[_Waiting[K, T, R]], results: Sequence[R | Exception]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.result.done():
            continue
        if isinstance(result, Exception):
            waiting.result.set_exception(result)
        else:
            waiting.result.set_result(result)
