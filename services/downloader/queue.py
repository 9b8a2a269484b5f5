"""The queue of this node's downloads: starts and stops their runs and divides the bandwidth among them."""

import asyncio
from collections.abc import Callable

from modelyard.bus.tasks import Tasks, cancel
from modelyard.host.settings import Settings
from schemas.downloads import ENDED, Download, DownloadState
from services.downloader import queue_rules
from services.downloader.download_run import IDLE_FIGURES, DownloadRun
from services.downloader.peers.client import PeerClient
from services.downloader.records import DownloadRecords
from services.downloader.register.registrar import Registrar
from services.downloader.worker.messages import Go

_S = DownloadState


class RunQueue:
    def __init__(
        self,
        tasks: Tasks,
        settings: Settings,
        records: DownloadRecords,
        *,
        registrar: Registrar,
        peers: PeerClient,
        on_files: Callable[[], None],
    ) -> None:
        """`on_files` is called when files have been fetched."""
        self._tasks = tasks
        self._settings = settings
        self._records = records
        self._registrar = registrar
        self._peers = peers
        self._on_files = on_files
        self._runs: dict[str, DownloadRun] = {}
        self._run_tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
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
            run = DownloadRun(
                self._settings,
                self._records,
                key,
                registrar=self._registrar,
                go_for=self._go_for,
                peers=self._peers,
                on_files=self._on_files,
            )
            self._runs[key] = run
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
        return queue_rules.next_download(startable, self._running(), self._settings.downloads_at_once)

    def _running(self) -> list[Download]:
        return [self._records[key] for key in self._run_tasks]

    def _go_for(self, download: Download) -> Go:
        others = [other for other in self._running() if other.download != download.download]
        return Go(
            others_bytes=queue_rules.missing_bytes(others), limit_bytes_s=self._limits()[download.download]
        )

    def _limits(self) -> dict[str, int | None]:
        limits = {download.download: download.limit_bytes_s for download in self._running()}
        return queue_rules.bandwidth_shares(self._settings.download_limit_bytes_s, limits)
