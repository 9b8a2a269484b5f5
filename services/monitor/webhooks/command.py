"""Telling a program of this machine: JSON on its standard input, no shell, a few variables, a time limit."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from modelyard.host.processes import ProcessGroup, dying_with_parent
from services.monitor.webhooks.occurrence import Occurrence
from services.monitor.webhooks.sender import NotDelivered

TIMEOUT_S = 10.0
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY")
"""Of the environment; the last three are what `notify-send` needs."""


class CommandSender:
    """One program."""

    def __init__(self, argv: Sequence[str], folder: Path) -> None:
        self._argv = tuple(argv)
        self._folder = folder

    async def send(self, occurrence: Occurrence) -> None:
        """Run it; what it starts is ended with it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                cwd=self._folder,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )
        except OSError as error:
            raise NotDelivered(f"It cannot be run: {error.strerror}.") from None
        await self._wait(process, occurrence)

    async def _wait(self, process: asyncio.subprocess.Process, occurrence: Occurrence) -> None:
        group = ProcessGroup.led_by(process.pid)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                with contextlib.suppress(ConnectionError):
                    await process.communicate(occurrence.body())
                code = await process.wait()
        except TimeoutError:
            raise NotDelivered(f"It ran longer than {TIMEOUT_S:g} s and was ended.") from None
        finally:
            await asyncio.shield(group.kill())
            await process.wait()
        if code != 0:
            raise NotDelivered(f"It ended with {code}.")
