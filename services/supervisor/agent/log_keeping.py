"""Logs of engines on disk: each bounded by its runner, all of them together by the node."""

import asyncio
import re
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from modelyard.bus import logs
from modelyard.host.settings import Settings
from services.supervisor.agent.agent import RUNNERS_LOG, NodeAgent
from services.supervisor.agent.workers import Workers
from services.supervisor.runner.engine_log import MAX_BYTES

log = logs.get(__name__)

KEPT_S = 7 * 24 * 3600.0
"""As long as the stream of lines on the wire."""
TOTAL_BYTES = 1024**3
EVERY_S = 600.0
_NAME = re.compile(r"(worker-)?(?P<owner>[0-9a-f]{16})\.log(\.\d)?")


class Part(NamedTuple):
    """One file of the log of an instance or a worker."""

    path: Path
    owner: str
    size_bytes: int
    changed_at: float
    """Unix seconds."""


def expendable(parts: Iterable[Part], living: Collection[str], now: float) -> list[Path]:
    """What goes: files nobody wrote to for long, and of all together the oldest, until the rest fits.

    What belongs to one that lives counts, but stays.
    """
    kept, gone = 0, []
    for part in sorted(parts, key=lambda part: (part.owner in living, part.changed_at), reverse=True):
        kept += part.size_bytes
        if part.owner not in living and (part.changed_at < now - KEPT_S or kept > TOTAL_BYTES):
            gone.append(part.path)
    return gone


def found(folder: Path) -> list[Part]:
    """Every log of an instance or a worker; other logs are others' business."""
    parts = []
    for path in folder.glob("*.log*"):
        if match := _NAME.fullmatch(path.name):
            stat = path.stat()
            parts.append(Part(path, match["owner"], stat.st_size, stat.st_mtime))
    return parts


async def keep_logs(settings: Settings, agent: NodeAgent, workers: Workers) -> None:
    """Tidy up now and then until cancelled."""
    while True:
        try:
            living = {*agent.living(), *(worker.worker for worker in workers.now())}
            await asyncio.to_thread(_tidy, settings.logs, living)
        except OSError as error:
            log.warning("logs_not_tidied", error=str(error))
        await asyncio.sleep(EVERY_S)


def _tidy(folder: Path, living: Collection[str]) -> None:
    gone = expendable(found(folder), living, time.time())
    for path in gone:
        path.unlink(missing_ok=True)
    runners = folder / RUNNERS_LOG
    if runners.is_file() and runners.stat().st_size > MAX_BYTES:
        # Those that have it open go on writing there.
        runners.replace(runners.with_name(f"{RUNNERS_LOG}.1"))
    if gone:
        log.info("logs_tidied", files=len(gone))
