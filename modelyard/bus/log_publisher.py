"""What a service logs, on the wire: gathered for a second, and so little that the broker hardly feels it.

Nothing in here logs, and nothing that is sent makes anybody log: so no line can bring forth another.
"""

import asyncio
import collections
import contextlib
import logging
import time

import nats.errors
import structlog
from structlog.typing import EventDict, WrappedLogger

from modelyard.bus.connection import Bus
from schemas.errors import YardError
from schemas.logs import LogLine, ServiceLogBatch
from schemas.subjects import SERVICE_LOG

EVERY_S = 1.0
MAX_LINES = 200
"""In one batch: more in a second is a flood, which the service's own file keeps."""
MAX_WAITING = 1000
MAX_TEXT = 4096
_OWN = ("level", "timestamp", "event", "exception")


class LogPublisher(logging.Handler):
    """Keeps lines until `send` takes them along; from any thread."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._waiting: collections.deque[LogLine] = collections.deque(maxlen=MAX_WAITING)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._waiting) == MAX_WAITING:
            self._dropped += 1
        self._waiting.append(_line(record))

    async def run(self, bus: Bus, service: str) -> None:
        """Send until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.send(bus, service)

    async def send(self, bus: Bus, service: str) -> None:
        """Send what waits, the newest of it. While the broker is away it goes on waiting."""
        if not self._waiting or not bus.connected:
            return
        batch = self._taken()
        # What the broker loses now is in the service's own file.
        with contextlib.suppress(YardError, nats.errors.Error):
            await bus.publish(SERVICE_LOG, batch, node=bus.node, service=service)

    def _taken(self) -> ServiceLogBatch:
        self.acquire()
        try:
            lines, dropped = list(self._waiting), self._dropped
            self._waiting.clear()
            self._dropped = 0
        finally:
            self.release()
        kept = lines[-MAX_LINES:]
        return ServiceLogBatch(lines=tuple(kept), dropped=dropped + len(lines) - len(kept))


def _line(record: logging.LogRecord) -> LogLine:
    # What structlog logs comes as its fields; other libraries' lines as text.
    fields = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
    model = fields.get("model")
    return LogLine(
        at=time.time(),
        text=format_fields(fields)[:MAX_TEXT],
        level=record.levelname.lower(),
        model=model if isinstance(model, str) else None,
    )


def format_fields(fields: EventDict) -> str:
    """`event name=value …`, and what was raised on lines of its own."""
    if fields.get("exc_info"):
        fields = structlog.processors.format_exc_info(_NOBODY, "", dict(fields))
    named = [f"{name}={value}" for name, value in fields.items() if name not in _OWN and name[0] != "_"]
    raised = fields.get("exception")
    return " ".join([str(fields.get("event", "")), *named]) + (f"\n{raised}" if raised else "")


_NOBODY: WrappedLogger = None
