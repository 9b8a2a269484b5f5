"""Log lines of a service on the wire: batched once a second, rate-limited.

Nothing in here logs, and no consumer logs what it receives, so no line can cause another.
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

PUBLISH_EVERY_S = 1.0
MAX_LINES = 200
"""Per batch; the service's own log file has all lines."""
MAX_BUFFERED = 1000
MAX_TEXT = 4096
_OWN = ("level", "timestamp", "event", "exception")


class LogPublisher(logging.Handler):
    """Buffers lines of any thread until `send` publishes them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._buffer: collections.deque[LogLine] = collections.deque(maxlen=MAX_BUFFERED)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._buffer) == MAX_BUFFERED:
            self._dropped += 1
        self._buffer.append(_line(record))

    async def run(self, bus: Bus, service: str) -> None:
        """Send until cancelled."""
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            await self.send(bus, service)

    async def send(self, bus: Bus, service: str) -> None:
        """Publish the newest buffered lines; without a broker they stay buffered."""
        if not self._buffer or not bus.connected:
            return
        batch = self._take_batch()
        # What the broker loses now is in the service's own file.
        with contextlib.suppress(YardError, nats.errors.Error):
            await bus.publish(SERVICE_LOG, batch, node=bus.node, service=service)

    def _take_batch(self) -> ServiceLogBatch:
        self.acquire()
        try:
            lines, dropped = list(self._buffer), self._dropped
            self._buffer.clear()
            self._dropped = 0
        finally:
            self.release()
        newest = lines[-MAX_LINES:]
        return ServiceLogBatch(lines=tuple(newest), dropped=dropped + len(lines) - len(newest))


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
        fields = structlog.processors.format_exc_info(_NO_LOGGER, "", dict(fields))
    named = [f"{name}={value}" for name, value in fields.items() if name not in _OWN and name[0] != "_"]
    raised = fields.get("exception")
    return " ".join([str(fields.get("event", "")), *named]) + (f"\n{raised}" if raised else "")


_NO_LOGGER: WrappedLogger = None
