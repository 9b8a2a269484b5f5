"""Asking what strangers wrote: it may never answer, and must stop nothing else."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class CallTimeout(Exception):
    """What was asked is still at it."""


def run_in_daemon_thread(work: Callable[[], T]) -> "Future[T]":
    """Do `work` in a thread that ends with the process: one that hangs keeps nobody from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it, SystemExit too
            future.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return future


class TimedCalls:
    """Waits for answers, and never asks twice what has not answered yet."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, Future[Any]] = {}

    def ask(self, key: Hashable, work: Callable[[], T], timeout_s: float, *, late: bool = False) -> T:
        """What `work` returns or raises; CallTimeout if that takes longer than `timeout_s`.

        `key`: who is asked what. `late`: an answer that came after all is taken the next time; else it is
        asked again then.
        """
        before = self._under_way.pop(key, None)
        if before is not None and before.done() and not late:
            before = None
        future: Future[T] = before or run_in_daemon_thread(work)
        try:
            return future.result(0 if before else timeout_s)
        except TimeoutError:
            if future.done():
                raise
            self._under_way[key] = future
            raise CallTimeout("It does not answer.") from None
