"""Blocking calls into foreign code that may hang: in daemon threads, with timeouts."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class CallTimeout(Exception):
    """The call is still running."""


def run_in_daemon_thread(work: Callable[[], T]) -> "Future[T]":
    """Run `work` in a daemon thread: a hanging call does not prevent the process from exiting."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the caller gets it, SystemExit too
            future.set_exception(error)

    threading.Thread(target=run, name="run_in_daemon_thread", daemon=True).start()
    return future


class TimedCalls:
    """Calls with a timeout; a call that is still running is not started again."""

    def __init__(self) -> None:
        self._running: dict[Hashable, Future[Any]] = {}

    def call(self, key: Hashable, work: Callable[[], T], timeout_s: float, *, late: bool = False) -> T:
        """The result or exception of `work`; CallTimeout after `timeout_s`.

        `key`: identifies the call. `late`: a result that came after its timeout is returned by the next
        call; otherwise the work is started again then.
        """
        before = self._running.pop(key, None)
        if before is not None and before.done() and not late:
            before = None
        future: Future[T] = before or run_in_daemon_thread(work)
        try:
            return future.result(0 if before else timeout_s)
        except TimeoutError:
            if future.done():
                raise
            self._running[key] = future
            raise CallTimeout("It does not answer.") from None
