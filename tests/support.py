"""What tests share: connections to a running broker, and `eventually` for conditions without an event."""

import asyncio
import contextlib
import inspect
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings
from modelyard.up.child import Child
from schemas.base import Role

T = TypeVar("T")


class Yard:
    """A home with a running broker, and logins to it."""

    def __init__(self, settings: Settings, url: str, broker: Child) -> None:
        self.settings = settings
        self.url = url
        self.broker = broker
        self._open: list[Bus] = []

    async def bus(self, role: Role = Role.OPERATOR) -> Bus:
        """A new connection in `role`, closed after the test."""
        bus = await Bus.connect(self.settings, role, url=self.url)
        self._open.append(bus)
        return bus

    async def close(self) -> None:
        for bus in self._open:
            await bus.nc.close()


@contextlib.asynccontextmanager
async def held_still(pid: int) -> AsyncIterator[None]:
    """A process stopped as a debugger would stop it; every thread stands still inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while not all(_stands(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
            await asyncio.sleep(0)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _stands(thread: Path) -> bool:
    """Whether the kernel says `T` of a thread; the name before that may have spaces."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


async def eventually(
    condition: Callable[[], T | Awaitable[T]],
    expected: str,
    *,
    timeout_s: float = 10.0,
    every_s: float = 0.02,
) -> T:
    """The first true value of `condition`, polled; AssertionError with `expected` and the last value in time.

    For state that no event announces: other processes, files, HTTP. An AssertionError that `condition` raises
    counts as not yet.
    """
    deadline, last = asyncio.get_running_loop().time() + timeout_s, "nothing"
    while True:
        try:
            value = condition()
            value = await value if inspect.isawaitable(value) else value
            if value:
                return value
            last = repr(value)
        except AssertionError as error:
            last = f"AssertionError: {error}"
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {expected}; last: {last[:500]}")
        await asyncio.sleep(every_s)
