"""The downloads of this machine as they are now: kept, stored in their bucket, told to who watches."""

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
_SOON_S = 0.5


class Book:
    """The one writer of this machine's records. What the broker cannot take now is stored when it is back."""

    def __init__(self, bus: Bus, tasks: Tasks, known: dict[str, Download]) -> None:
        self.downloads = known
        self._bus = bus
        self._tasks = tasks
        self._store = BucketStore(bus, buckets.DOWNLOADS)
        self._unstored: set[str] = set()
        self._untold: deque[Download] = deque()
        self._keeping_up: asyncio.Task[None] | None = None

    def __getitem__(self, key: str) -> Download:
        return self.downloads[key]

    def unended(self) -> list[Download]:
        """Those that may still go on."""
        return [each for each in self.downloads.values() if each.state not in ENDED]

    async def add(self, download: Download) -> None:
        """Take a new one; BrokerUnavailable if it could not be stored, for then it might be forgotten."""
        await self._store.put(download.download, download)
        self.downloads[download.download] = download
        self._untold.append(download)
        self._keep_up()
        await self.publish(download)

    async def forget(self, key: str) -> None:
        """Take one off for good."""
        await self._store.delete(key)
        self.downloads.pop(key, None)

    async def step(self, key: str, **changes: object) -> Download:
        """A new state, or another change that a restart must not lose: stored and told, in this order."""
        before = self.downloads[key]
        changed = msgspec.structs.replace(before, **changes, changed_at=time.time())
        self.downloads[key] = changed
        log.info("download_changed", download=key, state=changed.state, error=changed.error)
        self._unstored.add(key)
        if changed.state != before.state:
            self._untold.append(changed)
        await asyncio.wait({self._keep_up()}, timeout=_SOON_S)
        await self.publish(changed)
        return changed

    async def progressed(self, key: str, *, store: bool, **changes: object) -> None:
        """New figures within a state."""
        self.downloads[key] = msgspec.structs.replace(self.downloads[key], **changes)
        await self.publish(self.downloads[key])
        if store:
            self._unstored.add(key)
            self._keep_up()

    async def publish(self, download: Download) -> None:
        """Tell whoever watches now; the transfer never waits for them."""
        try:
            await self._bus.publish(subjects.DOWNLOAD_PROGRESS, download, download=download.download)
        except BrokerUnavailable as error:
            log.info("progress_not_told", error=error.message)

    def _keep_up(self) -> asyncio.Task[None]:
        """Have everything stored and told that is not yet."""
        if self._keeping_up is None or self._keeping_up.done():
            self._keeping_up = self._tasks.spawn(self._store_and_tell(), "store downloads")
        return self._keeping_up

    async def _store_and_tell(self) -> None:
        while self._unstored or self._untold:
            if self._unstored:
                await self._store_one(self._unstored.pop())
            else:
                await self._tell(self._untold.popleft())

    async def _store_one(self, key: str) -> None:
        if (download := self.downloads.get(key)) is None:
            return
        try:
            await self._store.put(key, download)
        except BrokerUnavailable as error:
            log.warning("download_not_stored", download=key, error=error.message)
            self._unstored.add(key)
            await asyncio.sleep(_SOON_S)

    async def _tell(self, download: Download) -> None:
        tokens = {"download": download.download, "state": str(download.state)}
        try:
            await self._bus.emit(subjects.DOWNLOAD_CHANGED, download, timeout_s=EVENT_TIMEOUT_S, **tokens)
        except BrokerUnavailable as error:
            log.warning("event_lost", **tokens, error=error.message)
