"""The commands about downloads, each with its handler and with the machine that it concerns."""

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketStore
from schemas import buckets, subjects
from schemas.base import check_token
from schemas.downloads import (
    AddDownloads,
    Download,
    DownloadRef,
    LimitDownload,
    MoveDownload,
    StartDownload,
)
from schemas.errors import NotFound
from services.downloader.downloads import Downloads
from services.downloader.owners import Owners


class OrderCommands:
    """Answers commands about this machine's downloads; on the first machine those of everybody."""

    def __init__(self, bus: Bus, commands: Commands, downloads: Downloads, *, first: bool) -> None:
        self._node = bus.node
        self._downloads = downloads
        self._store = BucketStore(bus, buckets.DOWNLOADS)
        self._owners = Owners(bus, commands, subjects.DOWNLOAD_AT_NODE, anywhere=first)

    async def start(self) -> None:
        """Answer from now on."""
        add, downloads = self._owners.add, self._downloads
        await add(subjects.DOWNLOAD_START, downloads.on_start, self._wanted)
        await add(subjects.DOWNLOAD_ADD, downloads.on_add, self._wanted)
        await add(subjects.DOWNLOAD_PAUSE, downloads.on_pause, self._owner)
        await add(subjects.DOWNLOAD_RESUME, downloads.on_resume, self._owner)
        await add(subjects.DOWNLOAD_CANCEL, downloads.on_cancel, self._owner)
        await add(subjects.DOWNLOAD_RETRY, downloads.on_retry, self._owner)
        await add(subjects.DOWNLOAD_MOVE, downloads.on_move, self._owner)
        await add(subjects.DOWNLOAD_LIMIT, downloads.on_limit, self._owner)
        await add(subjects.DOWNLOAD_FORGET, downloads.on_forget, self._owner, of_absent=self._forget)

    def _wanted(self, order: StartDownload | AddDownloads) -> str:
        return order.node or self._node

    async def _owner(self, ref: DownloadRef | MoveDownload | LimitDownload) -> str:
        """As the broker has it, for another machine may have begun it a moment ago."""
        return (await self._record(ref.download)).node or self._node

    async def _forget(self, ref: DownloadRef) -> Download:
        """Of a machine that is gone nobody else would tidy up."""
        download = await self._record(ref.download)
        await self._store.delete(ref.download)
        return download

    async def _record(self, key: str) -> Download:
        try:
            download = await self._store.get(check_token(key))
        except ValueError:
            download = None
        if download is None:
            raise NotFound(f"There is no download {key}.", param="download")
        return download
