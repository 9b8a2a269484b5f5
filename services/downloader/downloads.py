"""What people order of this machine's downloads: begun, joined, paused, moved, limited, ended."""

import asyncio
import time
from collections.abc import Callable

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks, cancel
from modelyard.host.settings import Settings
from schemas.base import check_model_name, new_id
from schemas.downloads import (
    ENDED,
    AddDownloads,
    Added,
    Download,
    DownloadRef,
    DownloadsAdded,
    DownloadState,
    LimitDownload,
    MoveDownload,
    StartDownload,
)
from schemas.errors import BadRequest, Conflict, NotFound, YardError
from services.downloader import queue
from services.downloader.book import Book
from services.downloader.pasted import MAX_REFERENCES, pasted_references
from services.downloader.peers.finder import Finder
from services.downloader.reference import Reference, parse_reference
from services.downloader.registering.names import name_of_reference
from services.downloader.registering.registrar import Registrar
from services.downloader.running import AT_REST, Run
from services.downloader.worker_messages import Go

log = logs.get(__name__)
_S = DownloadState


class Downloads:
    """The queue of this machine: its orders, and the work at those whose turn it is."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        settings: Settings,
        book: Book,
        *,
        registrar: Registrar,
        finder: Finder,
        on_files: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._tasks = tasks
        self._settings = settings
        self._book = book
        self._finder = finder
        self._registrar = registrar
        self._on_files = on_files
        """Called when files have come."""
        self._runs: dict[str, Run] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._held: set[str] = set()
        """Downloads that are being stopped: nobody begins them anew meanwhile."""
        self._orders = asyncio.Lock()
        """Orders are carried out one by one, so that none meets another half done."""

    async def go_on(self) -> None:
        """Take up what an earlier process left."""
        for download in self._book.unended():
            if download.state not in (_S.PAUSED, _S.QUEUED):
                await self._book.step(download.download, state=_S.QUEUED, **AT_REST)
        await self._fill()

    async def on_start(self, order: StartDownload) -> Download:
        """Begin a download, or join the one that runs."""
        async with self._orders:
            return await self._start(order)

    async def on_add(self, order: AddDownloads) -> DownloadsAdded:
        """Begin all that a text names; what is refused stops none of the others."""
        references = pasted_references(order.text)
        if not references:
            raise BadRequest("The text names no model; write references like org/name.", param="text")
        if len(references) > MAX_REFERENCES:
            raise BadRequest(
                f"The text names more than {MAX_REFERENCES} models; add fewer at once.", param="text"
            )
        return DownloadsAdded(added=tuple([await self._add(each, order) for each in references]))

    async def _add(self, reference: str, order: AddDownloads) -> Added:
        start = StartDownload(
            reference=reference,
            choice=order.choice,
            register=order.register,
            limit_bytes_s=order.limit_bytes_s,
        )
        try:
            return Added(reference=reference, download=await self.on_start(start))
        except YardError as error:
            return Added(reference=reference, error=error.body().error)

    async def on_pause(self, ref: DownloadRef) -> Download:
        """Stop its worker; a pause of what is paused changes nothing."""
        async with self._orders:
            if self._unended(ref.download).state is not _S.PAUSED:
                await self._stop(ref.download, _S.PAUSED)
            return self._book[ref.download]

    async def on_resume(self, ref: DownloadRef) -> Download:
        """Back into the queue, in its old place."""
        async with self._orders:
            if self._unended(ref.download).state is _S.PAUSED:
                await self._queue(ref.download)
            return self._book[ref.download]

    async def on_cancel(self, ref: DownloadRef) -> Download:
        """End a download; its worker dies at once."""
        async with self._orders:
            self._known(ref.download)
            await self._stop(ref.download, _S.CANCELLED)
            return self._book[ref.download]

    async def on_retry(self, ref: DownloadRef) -> Download:
        """Another try at what failed or was cancelled, at the end of the queue, of the newest commit."""
        async with self._orders:
            download = self._known(ref.download)
            if download.state not in (_S.FAILED, _S.CANCELLED):
                raise Conflict(
                    f"The download of {download.reference} is {download.state}; there is nothing to retry."
                )
            reference = parse_reference(download.reference)
            if queue.joined(self._book.unended(), reference, download.model, download.choice):
                raise Conflict(f"{download.reference} is being downloaded again already.")
            order = queue.last_order(self._book.unended())
            await self._book.step(ref.download, order=order, error=None, revision=None)
            await self._queue(ref.download)
            return self._book[ref.download]

    async def on_move(self, order: MoveDownload) -> Download:
        """Another place among those that wait."""
        async with self._orders:
            download = self._known(order.download)
            if download.state is not _S.QUEUED or order.download in self._work:
                raise Conflict(
                    f"The download of {download.reference} does not wait; only what waits has a place."
                )
            for key, place in queue.moved(self._book.unended(), order.download, order.to).items():
                await self._book.step(key, order=place)
            return self._book[order.download]

    async def on_limit(self, order: LimitDownload) -> Download:
        """Another limit, at once where it is at work."""
        async with self._orders:
            self._unended(order.download)
            download = await self._book.step(order.download, limit_bytes_s=_checked(order.limit_bytes_s))
            await self._share()
            return download

    async def on_forget(self, ref: DownloadRef) -> Download:
        """Off the list; only what has ended."""
        async with self._orders:
            download = self._known(ref.download)
            if download.state not in ENDED:
                raise Conflict(f"The download of {download.reference} has not ended; cancel it first.")
            await self._book.forget(ref.download)
            return download

    async def _start(self, order: StartDownload) -> Download:
        reference, model = _read(order)
        running = queue.joined(self._book.unended(), reference, order.name, order.choice)
        if running is not None:
            if running.state is _S.PAUSED:
                await self._queue(running.download)
            return self._book[running.download]
        now = time.time()
        download = Download(
            download=new_id(),
            reference=str(reference),
            model=model,
            state=_S.QUEUED,
            created_at=now,
            changed_at=now,
            node=self._settings.node,
            order=queue.last_order(self._book.unended()),
            limit_bytes_s=_checked(order.limit_bytes_s),
            choice=order.choice,
            register=order.register,
            overrides=order.overrides,
        )
        self._registrar.check_names(download)
        await self._book.add(download)
        await self._fill()
        return download

    async def _queue(self, key: str) -> None:
        await self._book.step(key, state=_S.QUEUED, **AT_REST)
        await self._fill()

    async def _fill(self) -> None:
        """Begin what may begin."""
        while download := self._next():
            key = download.download
            run = Run(
                self._settings,
                self._book,
                key,
                registrar=self._registrar,
                allow=self._allow,
                finder=self._finder,
                on_files=self._on_files,
            )
            self._runs[key] = run
            self._work[key] = self._tasks.spawn(self._at_work(key, run), f"download {download.reference}")
        await self._share()

    async def _at_work(self, key: str, run: Run) -> None:
        try:
            await run.to_the_end()
        finally:
            self._runs.pop(key, None)
            self._work.pop(key, None)
        await self._fill()

    def _next(self) -> Download | None:
        free = [each for each in self._book.unended() if each.download not in self._held]
        return queue.next_up(free, self._running(), self._settings.downloads_at_once)

    async def _stop(self, key: str, state: DownloadState) -> None:
        """End the work at it; what it has fetched stays."""
        self._held.add(key)
        try:
            if (task := self._work.get(key)) is not None:
                await cancel(task)
            if self._book[key].state not in ENDED:
                await self._book.step(key, state=state, **AT_REST)
        finally:
            self._held.discard(key)
        await self._fill()

    def _running(self) -> list[Download]:
        return [self._book[key] for key in self._work]

    def _allow(self, download: Download) -> Go:
        others = [each for each in self._running() if each.download != download.download]
        return Go(
            others_bytes=queue.still_needed_bytes(others), limit_bytes_s=self._limits()[download.download]
        )

    def _limits(self) -> dict[str, int | None]:
        caps = {each.download: each.limit_bytes_s for each in self._running()}
        return queue.shares(self._settings.download_limit_bytes_s, caps)

    async def _share(self) -> None:
        for key, limit in self._limits().items():
            if (run := self._runs.get(key)) is not None:
                await run.limit(limit)

    def _known(self, key: str) -> Download:
        if key not in self._book.downloads:
            raise NotFound(f"There is no download {key}.", param="download")
        return self._book[key]

    def _unended(self, key: str) -> Download:
        download = self._known(key)
        if download.state in ENDED:
            raise Conflict(f"The download of {download.reference} is {download.state} already.")
        return download


def _read(order: StartDownload) -> tuple[Reference, str]:
    try:
        reference = parse_reference(order.reference)
        return reference, check_model_name(order.name or name_of_reference(reference))
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _checked(limit_bytes_s: int | None) -> int | None:
    if limit_bytes_s is not None and limit_bytes_s < 1:
        raise BadRequest("A limit is a number of bytes a second, 1 or more.", param="limit_bytes_s")
    return limit_bytes_s
