"""Retention of engine logs: each is bounded by its runner, all together by their node."""

import asyncio
import re
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from modelyard.bus import logs
from modelyard.host.settings import Settings
from services.supervisor.node.agent import RUNNERS_LOG
from services.supervisor.node.presence import LocalNode
from services.supervisor.runner.engine_log import MAX_BYTES

log = logs.get(__name__)

RETENTION_S = 7 * 24 * 3600.0
"""As long as the stream of log lines."""
MAX_TOTAL_BYTES = 1024**3
INTERVAL_S = 600.0
_NAME = re.compile(r"(worker-)?(?P<owner>[0-9a-f]{16})\.log(\.\d)?")


class LogPart(NamedTuple):
    """One file of the log of an instance or a worker."""

    path: Path
    owner: str
    size_bytes: int
    changed_at: float
    """Unix seconds."""


def expendable(parts: Iterable[LogPart], live: Collection[str], now: float) -> list[Path]:
    """Files to delete: those not written for long, and the oldest until the rest fits.

    Files of live owners count and stay.
    """
    total, deleted = 0, []
    for part in sorted(parts, key=lambda part: (part.owner in live, part.changed_at), reverse=True):
        total += part.size_bytes
        is_old = part.changed_at < now - RETENTION_S
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


async def retain_logs(settings: Settings, node: LocalNode) -> None:
    """Delete expendable logs now and then until cancelled."""
    while True:
        try:
            live = {*node.agent.running(), *(worker.worker for worker in node.workers.now())}
            await asyncio.to_thread(_delete_expendable, settings.logs, live)
        except OSError as error:
            log.warning("logs_not_deleted", error=str(error))
        await asyncio.sleep(INTERVAL_S)


def _delete_expendable(folder: Path, live: Collection[str]) -> None:
    deleted = expendable(find_log_parts(folder), live, time.time())
    for path in deleted:
        path.unlink(missing_ok=True)
    runners = folder / RUNNERS_LOG
    if runners.is_file() and runners.stat().st_size > MAX_BYTES:
        # Processes that have it open continue to write there.
        runners.replace(runners.with_name(f"{RUNNERS_LOG}.1"))
    if deleted:
        log.info("logs_deleted", files=len(deleted))
