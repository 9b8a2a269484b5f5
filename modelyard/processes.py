"""Child processes that never outlive their purpose."""

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable

import psutil

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
POLL_S = 0.1


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel to send this process `number` when its parent dies (Linux; elsewhere parents tell)."""
    if _libc is None or os.getppid() == 1:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, number.value)
    if os.getppid() == 1:
        # The parent died before the kernel took the order.
        os.kill(os.getpid(), number)


def dying_with_parent(number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that binds the child's life to ours, for programs that cannot do it themselves."""
    return lambda: die_with_parent(number)


def started_at(pid: int) -> float | None:
    """When process `pid` started, which tells it from a later one of the same number; None if it is gone."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def is_same(pid: int, created_at: float) -> bool:
    """Whether `pid` still is the process that started at `created_at`."""
    now = started_at(pid)
    return now is not None and abs(now - created_at) < 1.0


async def wait_ended(pid: int, *, since: float, patience_s: float) -> None:
    """Wait until process `pid`, if it started after `since`, is gone; for `patience_s` at most."""
    created_at = started_at(pid)
    if created_at is None or created_at < since - 1.0:
        return
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(wait_gone(pid, created_at), patience_s)


async def wait_gone(pid: int, created_at: float) -> None:
    """Wait until that process is gone, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        await _poll_gone(pid, created_at)
        return
    try:
        if is_same(pid, created_at):
            await _readable(descriptor)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int) -> None:
    """A pidfd becomes readable when its process ends."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        if not select.select([descriptor], [], [], 0)[0]:
            await gone.wait()
    finally:
        loop.remove_reader(descriptor)


async def _poll_gone(pid: int, created_at: float) -> None:
    while is_same(pid, created_at):
        await asyncio.sleep(POLL_S)


async def end(pid: int, created_at: float, *, grace_s: float) -> None:
    """TERM, wait up to `grace_s`, KILL, wait. Harmless if it is gone."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not is_same(pid, created_at):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait_gone(pid, created_at), patience_s)
