"""The output of an engine: in log files of bounded size and age, and on the bus in batches."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings
from schemas.errors import BrokerUnavailable
from schemas.instances import Instance
from schemas.logs import LogBatch, LogLine
from schemas.subjects import INSTANCE_LOG

log = logs.get(__name__)

MAX_BYTES = 8 * 1024 * 1024
"""A log file of this size is rotated."""
BACKUPS = 2
"""Rotated files: NAME.log.1 is the newest."""
PUBLISH_INTERVAL_S = 0.2
MAX_LINES = 500
"""Further lines of a batch are only in the file: a flood must not fill the broker."""
_ENVELOPE_BYTES = 512
"""The size of a batch without its lines."""
RUNNERS_LOG = "runners.log"
"""In the folder of logs: the output of all runners."""
LOG_RETENTION_S = 7 * 24 * 3600.0
"""As long as the stream of log lines."""
MAX_TOTAL_BYTES = 1024**3
RETENTION_INTERVAL_S = 600.0
_NAME = re.compile(r"(worker-)?(?P<owner>[0-9a-f]{16})\.log(\.\d)?")


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


class LogPart(NamedTuple):
    """One file of the log of an instance or a worker."""

    path: Path
    owner: str
    size_bytes: int
    changed_at: float
    """Unix seconds."""


def logs_to_delete(parts: Iterable[LogPart], live: Collection[str], now: float) -> list[Path]:
    """Files to delete: those not written for long, and the oldest until the rest fits.

    Files of live owners count and stay.
    """
    total, deleted = 0, []
    for part in sorted(parts, key=lambda part: (part.owner in live, part.changed_at), reverse=True):
        total += part.size_bytes
        is_old = part.changed_at < now - LOG_RETENTION_S
        if part.owner not in live and (is_old or total > MAX_TOTAL_BYTES):
            deleted.append(part.path)
    return deleted


def find_log_parts(folder: Path) -> list[LogPart]:
    """Every log of an instance or a worker, and no other log."""
    parts = []
    for path in folder.glob("*.log*"):
        if match := _NAME.fullmatch(path.name):
            stat = path.stat()
            parts.append(LogPart(path, match["owner"], stat.st_size, stat.st_mtime))
    return parts


async def retain_logs(settings: Settings, live: Callable[[], Collection[str]]) -> None:
    """Delete old logs until cancelled; `live` are the instances and workers that have processes."""
    while True:
        try:
            await asyncio.to_thread(_delete_logs, settings.logs, live())
        except OSError as error:
            log.warning("logs_not_deleted", error=str(error))
        await asyncio.sleep(RETENTION_INTERVAL_S)


def _delete_logs(folder: Path, live: Collection[str]) -> None:
    deleted = logs_to_delete(find_log_parts(folder), live, time.time())
    for path in deleted:
        path.unlink(missing_ok=True)
    runners = folder / RUNNERS_LOG
    if runners.is_file() and runners.stat().st_size > MAX_BYTES:
        # Processes that have it open continue to write there.
        runners.replace(runners.with_name(f"{RUNNERS_LOG}.1"))
    if deleted:
        log.info("logs_deleted", files=len(deleted))
