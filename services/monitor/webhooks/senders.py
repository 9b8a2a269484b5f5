"""Senders of webhook events: the interface, and programs of this machine (JSON on stdin, no shell)."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from modelyard.host.processes import ProcessGroup, dying_with_parent
from services.monitor.webhooks.events import WebhookEvent

TIMEOUT_S = 10.0
_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ"),
    *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY"),
)
"""Variables that a program inherits; `notify-send` needs the last three."""


class DeliveryFailed(Exception):
    """The receiver did not accept an event; the message says why, without secrets."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WebhookSender(Protocol):
    """Sends events to one receiver."""

    async def send(self, event: WebhookEvent) -> None:
        """Return when the receiver has accepted it; DeliveryFailed otherwise, within a bounded time."""
        ...


class CommandSender:
    """Runs a program for each event."""

    def __init__(self, argv: Sequence[str], folder: Path) -> None:
        self._argv = tuple(argv)
        self._folder = folder

    async def send(self, event: WebhookEvent) -> None:
        """Run it to its end; its children are killed with it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                cwd=self._folder,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )
        except OSError as error:
            raise DeliveryFailed(f"It cannot be run: {error.strerror}.") from None
        await self._wait(process, event)

    async def _wait(self, process: asyncio.subprocess.Process, event: WebhookEvent) -> None:
        group = ProcessGroup.led_by(process.pid)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                with contextlib.suppress(ConnectionError):
                    await process.communicate(event.body())
                code = await process.wait()
        except TimeoutError:
            raise DeliveryFailed(f"It ran longer than {TIMEOUT_S:g} s and was ended.") from None
        finally:
            await asyncio.shield(group.kill())
            await process.wait()
        if code != 0:
            raise DeliveryFailed(f"It ended with {code}.")
