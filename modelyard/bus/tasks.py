"""Background tasks: an exception is logged, a stop cancels them and waits."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from modelyard.bus import logs

log = logs.get(__name__)

CANCEL_AGAIN_S = 1.0


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel and wait until all have ended.

    Again and again: before Python 3.12 `asyncio.wait_for`, and so nats-py, loses a cancel that comes
    together with the result it waits for.
    """
    while running := {task for task in tasks if not task.done()}:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN_S)


async def first_of(*racers: Awaitable[Any], timeout_s: float | None = None) -> tuple[bool, ...]:
    """Wait until one racer ends or the time is over; which of them have ended, in their order.

    Coroutines are started here and cancelled when another wins; the first exception among those that ended is
    raised. Tasks and futures stay the caller's: they run on, and the caller reads their result.
    """
    tasks = [asyncio.ensure_future(racer) for racer in racers]
    started = [task for task, racer in zip(tasks, racers, strict=True) if task is not racer]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(*started)
    for task in started:
        if task in done:
            task.result()
    return tuple(task in done for task in tasks)


class Tasks:
    """Tasks that live as long as the `async with` block. A failing task does not end the others."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def before_cancel(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Await `closer` when the block is left, before the tasks are cancelled; last in, first out."""
        self._closers.append(closer)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start `work` now; its exception, if any, is logged under `name`."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for closer in reversed(self._closers):
            await closer()
        while self._tasks:
            await cancel(*self._tasks)
            # One that ended this very moment is taken out by its callback, which has to get its turn.
            await asyncio.sleep(0)
