"""The output of an engine: in log files of bounded size, and on the bus in batches."""

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from modelyard.bus.connection import Bus
from schemas.errors import BrokerUnavailable
from schemas.instances import Instance
from schemas.logs import LogBatch, LogLine
from schemas.subjects import INSTANCE_LOG

MAX_BYTES = 8 * 1024 * 1024
"""A log file of this size is rotated."""
BACKUPS = 2
"""Rotated files: NAME.log.1 is the newest."""
PUBLISH_INTERVAL_S = 0.2
MAX_LINES = 500
"""Further lines of a batch are only in the file: a flood must not fill the broker."""
_ENVELOPE_BYTES = 512
"""The size of a batch without its lines."""


class RotatingLogFile:
    """Appends lines; `with` closes it."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file = self._open()

    def write(self, lines: list[bytes]) -> None:
        """Append lines without their line ends. A full disk loses lines, but stops no engine."""
        with contextlib.suppress(OSError):
            self._file.write(b"".join(line + b"\n" for line in lines))
            if self._file.tell() >= self._max_bytes:
                self._rotate()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(BACKUPS, 0, -1):
            newer = self._backup(number - 1) if number > 1 else self._path
            if newer.exists():
                newer.replace(self._backup(number))
        self._file = self._open()

    def _backup(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> BinaryIO:
        return self._path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


async def publish_lines(bus: Bus, pending: list[LogLine], instance: Instance) -> None:
    """Publish `pending` lines as they are appended, until cancelled."""
    while True:
        await asyncio.sleep(PUBLISH_INTERVAL_S)
        await flush_lines(bus, pending, instance)


async def flush_lines(bus: Bus, pending: list[LogLine], instance: Instance) -> None:
    """Publish the `pending` lines and remove them; without a broker one batch stays."""
    lines, pending[:] = pending[-MAX_LINES:], []
    if not lines:
        return
    try:
        batch = LogBatch(model=instance.model, lines=newest_that_fit(lines, bus.max_body_bytes))
        await bus.publish(INSTANCE_LOG, batch, node=instance.node, instance=instance.instance)
    except BrokerUnavailable:
        pending[:0] = lines


def newest_that_fit(lines: list[LogLine], max_bytes: int) -> tuple[LogLine, ...]:
    """The newest lines that fit one message; a foreign broker may have a low limit."""
    while lines and len(msgspec.json.encode(lines)) > max_bytes - _ENVELOPE_BYTES:
        lines = lines[len(lines) // 2 + 1 :]
    return tuple(lines)
