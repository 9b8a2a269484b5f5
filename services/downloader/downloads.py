"""Every download of this node: started once, followed, resumed, cancelled, registered."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from modelyard import logging
from modelyard.bus import Bus
from modelyard.settings import Settings
from modelyard.state import Mirror, Store
from modelyard.tasks import Tasks, cancel
from schemas import buckets, subjects
from schemas.downloads import ENDED, Download, DownloadRef, DownloadState, StartDownload
from schemas.errors import BadRequest, BrokerUnavailable, ErrorDetail, NotFound, YardError
from schemas.grammar import check_model_name, new_id
from schemas.models import ModelSpec, Source
from services.downloader.library.downloaded import note_download
from services.downloader.reference import Reference, parse_reference
from services.downloader.register import register
from services.downloader.speed import Speed, eta_s
from services.downloader.worker_messages import Failed, Finished, Job, Progress, Resolved, Verified
from services.downloader.worker_process import WorkerDied, run_worker

log = logging.get(__name__)

AT_ONCE = 2
EVERY_S = 0.5
"""Least time between two progress messages of a download."""
STORE_EVERY_S = 5.0
"""How often progress goes into the bucket too, for those who come later."""
MAX_DEATHS = 5
"""A worker that is killed is started again so often; each goes on where the last one was."""
_S = DownloadState


class Downloads:
    """The one writer of `downloads`."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        settings: Settings,
        known: Mirror[Download],
        on_files: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._tasks = tasks
        self._settings = settings
        self._on_files = on_files
        """Called when files have come."""
        self._store = Store(bus, buckets.DOWNLOADS)
        self._downloads: dict[str, Download] = dict(known.values)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._repos: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Two transfers into one folder could fetch the same file."""

    def resume(self) -> None:
        """Go on with what an earlier process left."""
        for download in self._downloads.values():
            if download.state not in ENDED:
                self._spawn(download)

    async def on_start(self, order: StartDownload) -> Download:
        """Begin a download, or join the one that runs."""
        try:
            reference = parse_reference(order.reference)
            model = check_model_name(order.name or str(reference))
        except ValueError as error:
            raise BadRequest(str(error)) from error
        for download in self._downloads.values():
            if (
                download.state not in ENDED
                and download.reference == str(reference)
                and download.model == model
            ):
                return download
        now = time.time()
        download = Download(
            download=new_id(),
            reference=str(reference),
            model=model,
            state=_S.QUEUED,
            created_at=now,
            changed_at=now,
        )
        await self._step(download)
        self._spawn(download)
        return download

    async def on_cancel(self, ref: DownloadRef) -> Download:
        """End a download; its worker dies at once."""
        download = self._downloads.get(ref.download)
        if download is None:
            raise NotFound(f"There is no download {ref.download}.")
        task = self._running.pop(ref.download, None)
        if task is not None:
            await cancel(task)
            await self._step(self._downloads[ref.download], state=_S.CANCELLED)
        return self._downloads[ref.download]

    def _spawn(self, download: Download) -> None:
        task = self._tasks.spawn(self._run(download.download), f"download {download.reference}")
        self._running[download.download] = task
        task.add_done_callback(lambda _: self._running.pop(download.download, None))

    async def _run(self, key: str) -> None:
        reference = parse_reference(self._downloads[key].reference)
        async with self._repos[reference.repo], self._places:
            try:
                finished = await self._transfer(key, reference)
                spec = model_spec(self._downloads[key].model, reference, finished)
                await register(self._bus, spec)
            except YardError as error:
                await self._step(self._downloads[key], state=_S.FAILED, error=error.body().error)
            except _TransferFailed as error:
                await self._step(self._downloads[key], state=_S.FAILED, error=error.detail)
            except OSError as error:
                failed = _TransferFailed(
                    "worker_failed", f"The transfer could not be started: {error.strerror}."
                )
                await self._step(self._downloads[key], state=_S.FAILED, error=failed.detail)
            else:
                await self._step(self._downloads[key], **finished_fields(finished, self._downloads[key]))

    async def _transfer(self, key: str, reference: Reference) -> Finished:
        for _ in range(MAX_DEATHS):
            try:
                return await self._one_worker(key, reference)
            except WorkerDied:
                log.warning("worker_died", download=key)
        raise _TransferFailed("worker_died", "The transfer was killed again and again; start it anew.")

    async def _one_worker(self, key: str, reference: Reference) -> Finished:
        await self._step(self._downloads[key], state=_S.RESOLVING)
        job = Job(
            repo=reference.repo,
            quant=reference.quant,
            revision=self._downloads[key].revision or reference.revision,
            folder=str(self._settings.models / reference.repo),
            store_root=str(self._settings.models),
        )
        follower = _Follower(self, key)
        resolved: Resolved | None = None
        async with aclosing(run_worker(job, self._settings.logs / "downloads.log")) as messages:
            async for message in messages:
                match message:
                    case Resolved():
                        resolved = message
                        await self._step(self._downloads[key], **resolved_fields(message))
                    case Progress():
                        await follower.on_progress(message)
                    case Verified():
                        log.info("file_verified", download=key, file=message.file)
                    case Finished():
                        await self._note(reference, resolved)
                        return message
                    case Failed():
                        raise _TransferFailed(message.code, message.message)
        raise WorkerDied

    async def _note(self, reference: Reference, resolved: Resolved | None) -> None:
        """What is known of the files lies beside them: their sha256, and where they came from."""
        if resolved is not None:
            await asyncio.to_thread(note_download, self._settings.models, reference.repo, resolved)
            self._on_files()

    async def _step(self, download: Download, **changes: object) -> None:
        """A new state: kept, stored, told."""
        changed = msgspec.structs.replace(download, **changes, changed_at=time.time())
        self._downloads[download.download] = changed
        log.info("download_changed", download=changed.download, state=changed.state, error=changed.error)
        await self._put(changed)
        event = self._bus.emit(
            subjects.DOWNLOAD_CHANGED, changed, download=changed.download, state=changed.state
        )
        self._tasks.spawn(event, f"event {changed.state}")
        await self.publish_progress(changed)

    async def _put(self, download: Download) -> None:
        try:
            await self._store.put(download.download, download)
        except BrokerUnavailable as error:
            log.warning("download_not_stored", error=error.message)

    def get(self, key: str) -> Download:
        """The download as it is now."""
        return self._downloads[key]

    async def progressed(self, key: str, *, store: bool, **changes: object) -> None:
        """New figures within a state."""
        download = msgspec.structs.replace(self._downloads[key], **changes)
        self._downloads[key] = download
        await self.publish_progress(download)
        if store:
            await self._put(download)

    async def publish_progress(self, download: Download) -> None:
        """Tell whoever watches now; the transfer never waits for them."""
        try:
            await self._bus.publish(subjects.DOWNLOAD_PROGRESS, download, download=download.download)
        except BrokerUnavailable as error:
            log.info("progress_not_told", error=error.message)


class _TransferFailed(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.detail = ErrorDetail(message=message, type="server_error", code=code)


class _Follower:
    """Turns a worker's many figures into few messages."""

    def __init__(self, downloads: Downloads, key: str) -> None:
        self._downloads = downloads
        self._key = key
        self._speed = Speed()
        self._told = 0.0
        self._stored = time.monotonic()

    async def on_progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return
        self._told = now
        store = now - self._stored > STORE_EVERY_S
        self._stored = now if store else self._stored
        speed = self._speed.see(now, progress.bytes_done)
        await self._downloads.progressed(
            self._key,
            store=store,
            bytes_done=progress.bytes_done,
            files_done=progress.files_done,
            speed_bytes_s=speed,
            eta_s=self._eta_s(progress.bytes_done, speed),
        )

    def _eta_s(self, bytes_done: int, speed: float | None) -> float | None:
        total = self._downloads.get(self._key).bytes_total
        return eta_s(total - bytes_done, speed) if total is not None else None


def resolved_fields(resolved: Resolved) -> dict[str, object]:
    """What a download knows once the hub has answered."""
    return {
        "state": _S.TRANSFERRING,
        "quant": resolved.quant,
        "revision": resolved.commit,
        "files": tuple(file.path for file in resolved.files),
        "bytes_total": resolved.bytes_total,
    }


def finished_fields(finished: Finished, download: Download) -> dict[str, object]:
    """A finished download has everything."""
    return {
        "state": _S.FINISHED,
        "bytes_done": finished.bytes_total,
        "files_done": len(download.files),
        "speed_bytes_s": None,
        "eta_s": None,
    }


def model_spec(name: str, reference: Reference, finished: Finished) -> ModelSpec:
    """The model that the fetched files are."""
    repo = reference.repo
    return ModelSpec(
        name=name,
        path=f"{repo}/{finished.model_path}",
        mmproj=f"{repo}/{finished.mmproj_path}" if finished.mmproj_path else None,
        source=Source(repo=repo, revision=finished.commit, quant=finished.quant),
    )
