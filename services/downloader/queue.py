"""The queue of this node's downloads: its order, duplicates, runs, and the shares of the bandwidth."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from modelyard.bus.tasks import Tasks, cancel
from modelyard.host.settings import Settings
from schemas.downloads import ENDED, Download, DownloadState
from schemas.hub import Choice
from services.downloader.download_run import IDLE_FIGURES, DownloadRun
from services.downloader.library.library import NodeLibrary
from services.downloader.records import DownloadRecords
from services.downloader.reference import Reference, parse_reference
from services.downloader.register.registrar import Registrar
from services.downloader.selection.gguf import normal_quant
from services.downloader.worker.messages import Go

_MAIN = "main"
DEFAULT_CHOICE = Choice()
_S = DownloadState


def queued(downloads: Iterable[Download]) -> list[Download]:
    """The queued downloads in order."""
    waiting = [download for download in downloads if download.state is DownloadState.QUEUED]
    return sorted(waiting, key=lambda download: (download.order, download.created_at))


def next_download(
    downloads: Collection[Download], running: Collection[Download], max_running: int
) -> Download | None:
    """The download to start now; never a second one of a repository, since they may share files."""
    if len(running) >= max_running:
        return None
    busy = {folder_of(download) for download in running}
    return next((download for download in queued(downloads) if folder_of(download) not in busy), None)


def folder_of(download: Download) -> str:
    """The repository's folder as a case-insensitive disk compares it."""
    return parse_reference(download.reference).repo.casefold()


def last_order(downloads: Iterable[Download]) -> float:
    """The order of a download behind all others."""
    return max((download.order for download in downloads), default=0.0) + 1.0


def moved(downloads: Iterable[Download], key: str, to: int) -> dict[str, float]:
    """The orders to change so that a download is at position `to` of the queue."""
    others = [download for download in queued(downloads) if download.download != key]
    to = max(0, min(to, len(others)))
    before = others[to - 1].order if to else others[0].order - 2.0 if others else 0.0
    after = others[to].order if to < len(others) else before + 2.0
    between = (before + after) / 2
    if before < between < after:
        return {key: between}
    ids = [download.download for download in others]
    return {id_: float(position) for position, id_ in enumerate([*ids[:to], key, *ids[to:]])}


def find_duplicate(
    downloads: Iterable[Download], reference: Reference, name: str | None, choice: Choice = DEFAULT_CHOICE
) -> Download | None:
    """The download that already fetches a reference, however it is written."""
    candidates = (
        download for download in downloads if download.choice == choice and name in {None, download.model}
    )
    return next((download for download in candidates if _fetches(download, reference)), None)


def _fetches(download: Download, wanted: Reference) -> bool:
    own = parse_reference(download.reference)
    return (
        download.state not in ENDED
        and own.repo == wanted.repo
        and (wanted.revision or _MAIN) in {own.revision or _MAIN, download.revision}
        and _has_files(download, own, wanted)
    )


def _has_files(download: Download, own: Reference, wanted: Reference) -> bool:
    if wanted.file is not None:
        return wanted.file in {own.file, *download.files}
    if own.file is not None:
        return False
    if wanted.quant is None:
        return own.quant is None or download.is_default_quant
    quants = {normal_quant(quant) for quant in (own.quant, download.quant) if quant}
    return normal_quant(wanted.quant) in quants


def bandwidth_shares(total: int | None, limits: dict[str, int | None]) -> dict[str, int | None]:
    """Each download's part of the total: its own limit, or an equal part of the rest."""
    if total is None:
        return limits
    shares: dict[str, int | None] = {}
    rest = total
    smallest_first = sorted(limits, key=lambda key: (limits[key] is None, limits[key] or 0))
    for count, key in enumerate(smallest_first):
        equal = max(1, rest // (len(limits) - count))
        limit = limits[key]
        share = equal if limit is None else min(limit, equal)
        shares[key] = share
        rest -= share
    return shares


def missing_bytes(downloads: Iterable[Download]) -> int:
    """The bytes that these downloads have yet to write."""
    return sum(max(0, (download.bytes_total or 0) - download.bytes_done) for download in downloads)


@dataclass
class RunQueue:
    _tasks: Tasks
    _settings: Settings
    _records: DownloadRecords
    _registrar: Registrar
    _library: NodeLibrary
    _runs: dict[str, DownloadRun] = field(default_factory=dict)
    _run_tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _stopping: set[str] = field(default_factory=set)
    """Must not be started again before their new state is set."""

    async def resume(self) -> None:
        """Queue what an earlier process was working on, and start."""
        for download in self._records.active():
            if download.state not in (_S.PAUSED, _S.QUEUED):
                await self._records.change(download.download, state=_S.QUEUED, **IDLE_FIGURES)
        await self.start_next()

    def is_running(self, key: str) -> bool:
        return key in self._run_tasks

    async def enqueue(self, key: str) -> None:
        """Set a download's state to queued, at its order, and start it if possible."""
        await self._records.change(key, state=_S.QUEUED, **IDLE_FIGURES)
        await self.start_next()

    async def start_next(self) -> None:
        """Start queued downloads while there is room."""
        while download := self._next():
            key = download.download
            run = self._runs[key] = DownloadRun(
                self._settings, self._records, self._registrar, self._library, self._go_for, key
            )
            self._run_tasks[key] = self._tasks.spawn(self._run(key, run), f"download {download.reference}")
        await self.apply_limits()

    async def stop(self, key: str, state: DownloadState) -> None:
        """Kill the worker of a download and set its state; what was fetched stays."""
        self._stopping.add(key)
        try:
            if (task := self._run_tasks.get(key)) is not None:
                await cancel(task)
            if self._records[key].state not in ENDED:
                await self._records.change(key, state=state, **IDLE_FIGURES)
        finally:
            self._stopping.discard(key)
        await self.start_next()

    async def apply_limits(self) -> None:
        """Send each run its share of the bandwidth."""
        for key, limit in self._limits().items():
            if (run := self._runs.get(key)) is not None:
                await run.set_limit(limit)

    async def _run(self, key: str, run: DownloadRun) -> None:
        try:
            await run.run()
        finally:
            self._runs.pop(key, None)
            self._run_tasks.pop(key, None)
        await self.start_next()

    def _next(self) -> Download | None:
        startable = [
            download for download in self._records.active() if download.download not in self._stopping
        ]
        return next_download(startable, self._running(), self._settings.downloads_at_once)

    def _running(self) -> list[Download]:
        return [self._records[key] for key in self._run_tasks]

    def _go_for(self, download: Download) -> Go:
        others = [other for other in self._running() if other.download != download.download]
        return Go(others_bytes=missing_bytes(others), limit_bytes_s=self._limits()[download.download])

    def _limits(self) -> dict[str, int | None]:
        limits = {download.download: download.limit_bytes_s for download in self._running()}
        return bandwidth_shares(self._settings.download_limit_bytes_s, limits)
