"""Work from many requests, computed together by one thread."""

import asyncio
import collections
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


class _Waiting(NamedTuple, Generic[K, T, R]):
    kind: K
    item: T
    result: "asyncio.Future[R]"


class Batches(Generic[K, T, R]):
    """Items of one kind that wait at the same time go together; what nobody waits for is left out.

    While one batch is computed the next one gathers, so there is no waiting for company.
    """

    def __init__(self, compute: Callable[[K, Sequence[T]], Sequence[R]], size: int) -> None:
        self._compute = compute
        self._size = size
        self._waiting: collections.deque[_Waiting[K, T, R]] = collections.deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    async def run(self, kind: K, items: Sequence[T]) -> list[R]:
        """The results in the order of the items; what `compute` raises. Cancelled: they are not computed."""
        loop = asyncio.get_running_loop()
        entered = [_Waiting[K, T, R](kind, item, loop.create_future()) for item in items]
        self._waiting.extend(entered)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await asyncio.gather(*(one.result for one in entered))

    async def close(self) -> None:
        """Drop what waits. What is at work cannot be stopped, only left."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            items = [one.item for one in batch]
            try:
                results = await loop.run_in_executor(self._thread, self._compute, batch[0].kind, items)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait are told
                _settle(batch, [error] * len(batch))
            else:
                _settle(batch, results)

    def _next(self) -> list[_Waiting[K, T, R]]:
        """Up to a batch of the kind that has waited longest, in order; what is of another kind waits on."""
        batch: list[_Waiting[K, T, R]] = []
        rest: list[_Waiting[K, T, R]] = []
        while self._waiting and len(batch) < self._size:
            one = self._waiting.popleft()
            if one.result.done():
                continue
            (batch if not batch or one.kind == batch[0].kind else rest).append(one)
        self._waiting.extendleft(reversed(rest))
        return batch


def _settle(batch: Sequence[_Waiting[K, T, R]], results: Sequence[R | Exception]) -> None:
    for one, result in zip(batch, results, strict=True):
        if one.result.done():
            continue
        if isinstance(result, Exception):
            one.result.set_exception(result)
        else:
            one.result.set_result(result)
