"""The queue of downloads, and following downloads to their ends."""

from collections.abc import AsyncGenerator, Iterable

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.client.commands import CommandGroup, CommandMethod
from modelyard.client.follow import RecordFollower
from schemas import buckets, subjects
from schemas.downloads import ENDED, AddDownloads, Download, ReferenceResult, StartDownload

_ADD_TIMEOUT_S = 60.0


class DownloadClient(CommandGroup):
    """The queue. A download is named by its id."""

    start = CommandMethod(subjects.DOWNLOAD_START)
    pause = CommandMethod(subjects.DOWNLOAD_PAUSE)
    resume = CommandMethod(subjects.DOWNLOAD_RESUME)
    cancel = CommandMethod(subjects.DOWNLOAD_CANCEL)
    retry = CommandMethod(subjects.DOWNLOAD_RETRY)
    move = CommandMethod(subjects.DOWNLOAD_MOVE)
    limit = CommandMethod(subjects.DOWNLOAD_LIMIT)
    forget = CommandMethod(subjects.DOWNLOAD_FORGET)

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        both = (subjects.DOWNLOAD_PROGRESS, subjects.DOWNLOAD_CHANGED)
        self._follower = RecordFollower(bus, "download", buckets.DOWNLOADS, both, ENDED)

    async def add(self, request: str | AddDownloads) -> tuple[ReferenceResult, ...]:
        """Download everything that a text names; each reference is accepted or refused alone."""
        command = AddDownloads(text=request) if isinstance(request, str) else request
        return (await self.bus.call(subjects.DOWNLOAD_ADD, command, timeout_s=_ADD_TIMEOUT_S)).added

    def pull(self, command: StartDownload) -> AsyncGenerator[Download, None]:
        """Start a download, or join a running one, and give every update until it has ended."""

        async def begin() -> tuple[Download, ...]:
            return (await self.start(command),)

        return self._follower.follow(begin)

    def follow(self, downloads: Iterable[Download]) -> AsyncGenerator[Download, None]:
        """Every update of these until all of them have ended; closing the generator leaves them running."""
        known = tuple(downloads)

        async def begin() -> tuple[Download, ...]:
            return known

        return self._follower.follow(begin)

    async def watch(self) -> AsyncGenerator[Download, None]:
        """Downloads that have not ended, then every update of any, for ever, without repetitions."""
        async with self._follower.updates() as updates:
            latest = await read_bucket(self.bus, buckets.DOWNLOADS)
            for download in [download for download in latest.values() if download.state not in ENDED]:
                yield download
            while True:
                update = await updates.get()
                if update is not None and latest.get(update.download) != update:
                    latest[update.download] = update
                    yield update
