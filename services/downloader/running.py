"""One download at work: a worker is started, let go on, followed to its verdict, its model registered."""

import asyncio
import time
from collections.abc import Callable

from modelyard.bus import logs
from modelyard.host.settings import Settings
from schemas.downloads import Download, DownloadState
from schemas.errors import ErrorDetail, YardError
from services.downloader.book import Book
from services.downloader.library.downloaded import note_download
from services.downloader.peers.finder import Finder
from services.downloader.reference import Reference, parse_reference
from services.downloader.registering.registrar import Registrar
from services.downloader.speed import Speed, eta_s
from services.downloader.worker_messages import (
    Distrust,
    Failed,
    Finished,
    Go,
    Job,
    Limit,
    Progress,
    Received,
    Resolved,
    Seek,
    SeekRepo,
    Trouble,
    Verified,
)
from services.downloader.worker_process import Worker, WorkerDied, running_worker

log = logs.get(__name__)

EVERY_S = 0.5
"""Least time between two progress messages of a download."""
STORE_EVERY_S = 5.0
"""How often progress goes into the bucket too, for those who come later."""
MAX_DEATHS = 10
"""A worker that is killed is started again so often without a new byte; each goes on where the last was."""
_DEATH_PAUSE_S = 0.2
_S = DownloadState

Allow = Callable[[Download], Go]
"""Says what a download that now knows its size may take."""


class TransferFailed(Exception):
    """A worker's no, or ours."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.detail = ErrorDetail(message=message, type="server_error", code=code)


class Run:
    """The work at one download, from the queue to its end."""

    def __init__(
        self,
        settings: Settings,
        book: Book,
        key: str,
        *,
        registrar: Registrar,
        allow: Allow,
        finder: Finder,
        on_files: Callable[[], None],
    ) -> None:
        self._registrar = registrar
        self._settings = settings
        self._book = book
        self._key = key
        self._allow = allow
        self._finder = finder
        self._on_files = on_files
        self._worker: Worker | None = None

    async def to_the_end(self) -> None:
        """Work until there is an end, which is stored and told."""
        reference = parse_reference(self._book[self._key].reference)
        try:
            finished = await self._transfer(reference)
            await self._registrar.fetched(self._book[self._key], finished)
        except YardError as error:
            await self._fail(error.body().error)
        except TransferFailed as error:
            await self._fail(error.detail)
        except OSError as error:
            failed = TransferFailed("worker_failed", f"The transfer could not be started: {error.strerror}.")
            await self._fail(failed.detail)
        else:
            await self._book.step(self._key, **finished_fields(finished, self._book[self._key]))

    async def limit(self, bytes_per_s: int | None) -> None:
        """The most that it may take of the network from now on."""
        if self._worker is not None:
            await self._worker.tell(Limit(limit_bytes_s=bytes_per_s))

    async def _fail(self, detail: ErrorDetail) -> None:
        await self._book.step(self._key, state=_S.FAILED, error=detail, **AT_REST)

    async def _transfer(self, reference: Reference) -> Finished:
        deaths, seen_bytes = 0, 0
        while deaths < MAX_DEATHS:
            try:
                return await self._one_worker(reference)
            except WorkerDied:
                log.warning("worker_died", download=self._key)
            deaths = deaths + 1 if self._book[self._key].bytes_done <= seen_bytes else 0
            seen_bytes = max(seen_bytes, self._book[self._key].bytes_done)
            await asyncio.sleep(_DEATH_PAUSE_S * deaths)
        raise TransferFailed("worker_died", "The transfer was killed again and again; retry it.")

    async def _one_worker(self, reference: Reference) -> Finished:
        await self._book.step(self._key, state=_S.RESOLVING, **AT_REST)
        job = job_of(self._settings, reference, self._book[self._key])
        follower = _Follower(self._book, self._key)
        resolved: Resolved | None = None
        async with running_worker(job, self._settings.logs / "downloads.log") as worker:
            self._worker = worker
            try:
                async for message in worker.messages():
                    match message:
                        case Resolved():
                            resolved = message
                            await self._book.step(self._key, **resolved_fields(message))
                            await worker.tell(self._allow(self._book[self._key]))
                        case Progress() | Received():
                            await follower.follow(message)
                        case Seek() | SeekRepo() | Distrust():
                            await self._finder.hear(message, worker.tell)
                        case Trouble():
                            await self._book.progressed(self._key, store=False, problem=message.message)
                        case Verified():
                            log.info("file_verified", download=self._key, file=message.file)
                        case Finished():
                            await self._note(reference, resolved)
                            return message
                        case Failed():
                            raise TransferFailed(message.code, message.message)
            finally:
                self._worker = None
                await self._book.progressed(self._key, store=False, received=follower.received)
        raise WorkerDied

    async def _note(self, reference: Reference, resolved: Resolved | None) -> None:
        """What is known of the files lies beside them: their sha256, and where they came from."""
        if resolved is not None:
            await asyncio.to_thread(note_download, self._settings.models, reference.repo, resolved)
            self._on_files()


class _Follower:
    """Turns a worker's many figures into few messages."""

    def __init__(self, book: Book, key: str) -> None:
        self._book = book
        self._key = key
        self._speed = Speed()
        self._told = time.monotonic()
        self._stored = time.monotonic()
        self._received_before = book[key].received
        self._received: dict[str, int] = {}

    @property
    def received(self) -> dict[str, int]:
        """What this worker has received, and those before it."""
        before, now = self._received_before, self._received
        return {source: before.get(source, 0) + now.get(source, 0) for source in {**before, **now}}

    async def follow(self, message: Progress | Received) -> None:
        """Tell of it now and then; where the bytes came from is told with the next progress."""
        if isinstance(message, Received):
            self._received = message.received
        else:
            await self._on_progress(message)

    async def _on_progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return
        self._told = now
        store = now - self._stored > STORE_EVERY_S
        self._stored = now if store else self._stored
        download = self._book[self._key]
        speed = self._speed.see(now, progress.bytes_done)
        arrives = progress.bytes_done > download.bytes_done or progress.files_done > download.files_done
        await self._book.progressed(
            self._key,
            store=store,
            bytes_done=progress.bytes_done,
            files_done=progress.files_done,
            received=self.received,
            speed_bytes_s=speed,
            eta_s=eta_s((download.bytes_total or 0) - progress.bytes_done, speed),
            problem=None if arrives else download.problem,
        )


AT_REST: dict[str, object] = {"speed_bytes_s": None, "eta_s": None, "problem": None}
"""The figures of a download for which nothing arrives."""


def job_of(settings: Settings, reference: Reference, download: Download) -> Job:
    """What its worker has to do; once a commit is known it stays with that."""
    return Job(
        repo=reference.repo,
        quant=reference.quant,
        file=reference.file,
        choice=download.choice,
        revision=download.revision or reference.revision,
        folder=str(settings.models / reference.repo),
        store_root=str(settings.models),
        margin_bytes=settings.disk_margin_bytes,
        segments=settings.download_segments,
        nodes=True,
    )


def resolved_fields(resolved: Resolved) -> dict[str, object]:
    """What a download knows once the hub has answered."""
    return {
        "state": _S.TRANSFERRING,
        "quant": resolved.quant,
        "is_default_quant": resolved.is_default_quant,
        "revision": resolved.commit,
        "files": tuple(file.path for file in resolved.files),
        "bytes_total": resolved.bytes_total,
        "bytes_done": resolved.bytes_total - resolved.missing_bytes,
    }


def finished_fields(finished: Finished, download: Download) -> dict[str, object]:
    """A finished download has everything."""
    return {
        **AT_REST,
        "state": _S.FINISHED,
        "bytes_done": finished.bytes_total,
        "files_done": len(download.files),
    }
