"""The queue of downloads, and following downloads to their ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.client.commands import CommandGroup, CommandMethod
from schemas import buckets, subjects
from schemas.downloads import (
    ENDED,
    AddDownloads,
    Added,
    Download,
    DownloadRef,
    LimitDownload,
    MoveDownload,
    StartDownload,
)
from schemas.errors import BrokerUnavailable, NotFound

_SILENCE_S = 3.0
"""After this long without an update the bucket is read: progress, and even an event, may be lost."""
_MAX_FAILED_READS = 20
_ADD_TIMEOUT_S = 60.0

_Updates = asyncio.Queue[Download | None]
"""None: read the bucket."""


class DownloadClient(CommandGroup):
    """The queue. A download is named by its id."""

    start = CommandMethod(subjects.DOWNLOAD_START, StartDownload)
    pause = CommandMethod(subjects.DOWNLOAD_PAUSE, DownloadRef)
    resume = CommandMethod(subjects.DOWNLOAD_RESUME, DownloadRef)
    cancel = CommandMethod(subjects.DOWNLOAD_CANCEL, DownloadRef)
    retry = CommandMethod(subjects.DOWNLOAD_RETRY, DownloadRef)
    move = CommandMethod(subjects.DOWNLOAD_MOVE, MoveDownload)
    limit = CommandMethod(subjects.DOWNLOAD_LIMIT, LimitDownload)
    forget = CommandMethod(subjects.DOWNLOAD_FORGET, DownloadRef)

    async def add(self, wanted: str | AddDownloads) -> tuple[Added, ...]:
        """Download everything that a text names; each reference is accepted or refused alone."""
        command = AddDownloads(text=wanted) if isinstance(wanted, str) else wanted
        return (await self.bus.call(subjects.DOWNLOAD_ADD, command, timeout_s=_ADD_TIMEOUT_S)).added

    def pull(self, command: StartDownload) -> AsyncGenerator[Download, None]:
        """Start a download, or join a running one, and give every update until it has ended."""

        async def begin() -> tuple[Download, ...]:
            return (await self.start(command),)

        return _follow(self.bus, begin)

    def follow(self, downloads: Iterable[Download]) -> AsyncGenerator[Download, None]:
        """Every update of these until all of them have ended; closing the generator leaves them running."""
        known = tuple(downloads)

        async def begin() -> tuple[Download, ...]:
            return known

        return _follow(self.bus, begin)

    async def watch(self) -> AsyncGenerator[Download, None]:
        """Downloads that have not ended, then every update of any, for ever, without repetitions."""
        async with _subscribed(self.bus) as updates:
            latest = await read_bucket(self.bus, buckets.DOWNLOADS)
            for download in [download for download in latest.values() if download.state not in ENDED]:
                yield download
            while True:
                update = await updates.get()
                if update is not None and latest.get(update.download) != update:
                    latest[update.download] = update
                    yield update


@contextlib.asynccontextmanager
async def _subscribed(bus: Bus) -> AsyncGenerator[_Updates, None]:
    updates: _Updates = asyncio.Queue()

    async def on_update(_: dict[str, str], download: Download) -> None:
        updates.put_nowait(download)

    subs = [
        await bus.subscribe(subject, on_update)
        for subject in (subjects.DOWNLOAD_PROGRESS, subjects.DOWNLOAD_CHANGED)
    ]
    remove_hook = bus.on_reconnect(lambda: updates.put_nowait(None))
    try:
        yield updates
    finally:
        remove_hook()
        if bus.connected:
            for sub in subs:
                await sub.unsubscribe()


async def _follow(
    bus: Bus, begin: Callable[[], Awaitable[Iterable[Download]]]
) -> AsyncGenerator[Download, None]:
    # The subscription comes first: a whole download may be over before the reply to its start is read here.
    async with _subscribed(bus) as updates:
        latest = {download.download: download for download in await begin()}
        for download in tuple(latest.values()):
            yield download
        while any(download.state not in ENDED for download in latest.values()):
            for update in await _next_updates(bus, updates, latest):
                latest[update.download] = update
                yield update


async def _next_updates(bus: Bus, updates: _Updates, latest: dict[str, Download]) -> list[Download]:
    """The next states of these downloads that differ from the latest ones."""
    failed_reads = 0
    while True:
        update = None
        # Not wait_for: before Python 3.12 it swallows a Ctrl-C that comes together with an update.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_S):
                update = await updates.get()
        try:
            states, failed_reads = [update] if update else await _read(bus, latest), 0
        except BrokerUnavailable:
            failed_reads += 1
            if failed_reads == _MAX_FAILED_READS:
                raise
            continue
        if changed := [state for state in states if latest.get(state.download, state) != state]:
            return changed


async def _read(bus: Bus, latest: dict[str, Download]) -> list[Download]:
    open_ids = [key for key, download in latest.items() if download.state not in ENDED]
    stored = await read_bucket(bus, buckets.DOWNLOADS, open_ids[0] if len(open_ids) == 1 else ">")
    for key in open_ids:
        if key not in stored:
            raise NotFound(f"The download {key} is no longer known in the yard.", param="download")
    return [stored[key] for key in open_ids]
