"""What tests share: logins to a running broker, and waiting for conditions."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from modelyard.bus import Bus
from modelyard.settings import Settings
from modelyard.up.child import Child
from schemas.roles import Role


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
