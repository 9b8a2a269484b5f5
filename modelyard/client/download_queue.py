"""The queue of downloads for scripts."""

from collections.abc import AsyncGenerator, Iterable

from modelyard.bus.connection import Bus
from modelyard.client.pulling import follow, watch
from schemas import subjects
from schemas.downloads import (
    AddDownloads,
    Added,
    Download,
    DownloadRef,
    LimitDownload,
    MoveDownload,
    StartDownload,
)


class DownloadQueue:
    """Begins, orders and ends downloads. A download is meant by its id."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def start(self, wanted: StartDownload) -> Download:
        """One model; a second asker joins the download that runs."""
        return await self._bus.call(subjects.DOWNLOAD_START, wanted)

    async def add(self, wanted: str | AddDownloads) -> tuple[Added, ...]:
        """Everything that a text names, between spaces, commas or lines; each is taken or refused alone."""
        order = AddDownloads(text=wanted) if isinstance(wanted, str) else wanted
        return (await self._bus.call(subjects.DOWNLOAD_ADD, order, timeout_s=60.0)).added

    async def pause(self, download: str) -> Download:
        """Let it rest until it is resumed."""
        return await self._bus.call(subjects.DOWNLOAD_PAUSE, DownloadRef(download=download))

    async def resume(self, download: str) -> Download:
        """Have a paused one go on where it was."""
        return await self._bus.call(subjects.DOWNLOAD_RESUME, DownloadRef(download=download))

    async def cancel(self, download: str) -> Download:
        """End it; what is on disk stays for a later one."""
        return await self._bus.call(subjects.DOWNLOAD_CANCEL, DownloadRef(download=download))

    async def retry(self, download: str) -> Download:
        """Try a failed or cancelled one again."""
        return await self._bus.call(subjects.DOWNLOAD_RETRY, DownloadRef(download=download))

    async def move(self, download: str, to: int = 0) -> Download:
        """Give a waiting one another place; 0 is the next to begin."""
        return await self._bus.call(subjects.DOWNLOAD_MOVE, MoveDownload(download=download, to=to))

    async def limit(self, download: str, limit_bytes_s: int | None) -> Download:
        """What it may take of the network from now on; None: what its machine may take."""
        wanted = LimitDownload(download=download, limit_bytes_s=limit_bytes_s)
        return await self._bus.call(subjects.DOWNLOAD_LIMIT, wanted)

    async def forget(self, download: str) -> Download:
        """Take an ended one off the list."""
        return await self._bus.call(subjects.DOWNLOAD_FORGET, DownloadRef(download=download))

    def follow(self, downloads: Iterable[Download]) -> AsyncGenerator[Download, None]:
        """Every update of these until all of them have ended; leaving early leaves them running."""
        known = tuple(downloads)

        async def begun() -> tuple[Download, ...]:
            return known

        return follow(self._bus, begun)

    def watch(self) -> AsyncGenerator[Download, None]:
        """Downloads that have not ended, then every update of any download."""
        return watch(self._bus)
