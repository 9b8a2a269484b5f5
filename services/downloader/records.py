"""The records of this node's downloads: stored in their bucket, published as events and progress."""

import asyncio
import time
from collections import deque

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.downloads import ENDED, Download
from schemas.errors import BrokerUnavailable

log = logs.get(__name__)

EVENT_TIMEOUT_S = 600.0
_STORE_TIMEOUT_S = 0.5
_STORE_RETRY_S = 0.5


class DownloadRecords:
    """The only writer of this node's records. Without a broker, changes are buffered and stored later."""

    def __init__(self, bus: Bus, tasks: Tasks, downloads: dict[str, Download]) -> None:
        self.downloads = downloads
        self._bus = bus
        self._tasks = tasks
        self._store = BucketStore(bus, buckets.DOWNLOADS)
        self._unstored: set[str] = set()
        self._unpublished: deque[Download] = deque()
        self._flushing: asyncio.Task[None] | None = None

    def __getitem__(self, key: str) -> Download:
        return self.downloads[key]

    def active(self) -> list[Download]:
        return [download for download in self.downloads.values() if download.state not in ENDED]

    async def add(self, download: Download) -> None:
        """Add a download; BrokerUnavailable if it could not be stored."""
        await self._store.put(download.download, download)
        self.downloads[download.download] = download
        self._unpublished.append(download)
        self._flush()
        await self._publish_progress(download)

    async def delete(self, key: str) -> None:
        await self._store.delete(key)
        self.downloads.pop(key, None)

    async def change(self, key: str, **changes: object) -> Download:
        """Change the state, or a field that a restart must not lose: stored first, then published."""
        before = self.downloads[key]
        download = msgspec.structs.replace(before, **changes, changed_at=time.time())
        self.downloads[key] = download
        log.info("download_changed", download=key, state=download.state, error=download.error)
        self._unstored.add(key)
        if download.state != before.state:
            self._unpublished.append(download)
        await asyncio.wait({self._flush()}, timeout=_STORE_TIMEOUT_S)
        await self._publish_progress(download)
        return download

    async def update_progress(self, key: str, *, store: bool, **changes: object) -> None:
        """Change figures within a state; stored only on request."""
        self.downloads[key] = msgspec.structs.replace(self.downloads[key], **changes)
        await self._publish_progress(self.downloads[key])
        if store:
            self._unstored.add(key)
            self._flush()

    async def _publish_progress(self, download: Download) -> None:
        """Without guarantees: the transfer never waits for subscribers."""
        try:
            await self._bus.publish(subjects.DOWNLOAD_PROGRESS, download, download=download.download)
        except BrokerUnavailable as error:
            log.info("progress_not_published", error=error.message)

    def _flush(self) -> asyncio.Task[None]:
        """The task that stores and publishes pending changes."""
        if self._flushing is None or self._flushing.done():
            self._flushing = self._tasks.spawn(self._store_and_publish(), "store downloads")
        return self._flushing

    async def _store_and_publish(self) -> None:
        while self._unstored or self._unpublished:
            if self._unstored:
                await self._store_record(self._unstored.pop())
            else:
                await self._publish_event(self._unpublished.popleft())

    async def _store_record(self, key: str) -> None:
        if (download := self.downloads.get(key)) is None:
            return
        try:
            await self._store.put(key, download)
        except BrokerUnavailable as error:
            log.warning("download_not_stored", download=key, error=error.message)
            self._unstored.add(key)
            await asyncio.sleep(_STORE_RETRY_S)

    async def _publish_event(self, download: Download) -> None:
        tokens = {"download": download.download, "state": str(download.state)}
        try:
            await self._bus.emit(subjects.DOWNLOAD_CHANGED, download, timeout_s=EVENT_TIMEOUT_S, **tokens)
        except BrokerUnavailable as error:
            log.warning("event_lost", **tokens, error=error.message)
