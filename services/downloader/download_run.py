"""One download from the queue to its end: its workers, their messages, and the registration of its model."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from modelyard.bus import logs
from modelyard.host.settings import Settings
from schemas.downloads import Download, DownloadState
from schemas.errors import ErrorDetail, YardError
from services.downloader.errors import DownloadError
from services.downloader.library.library import NodeLibrary
from services.downloader.library.records import record_download
from services.downloader.records import DownloadRecords
from services.downloader.reference import Reference, parse_reference
from services.downloader.register.registrar import Registrar
from services.downloader.worker import messages

log = logs.get(__name__)

PROGRESS_S = 0.5
"""Least time between two progress messages of a download."""
STORE_PROGRESS_S = 5.0
"""How often progress is stored in the bucket as well."""
MAX_WORKER_ATTEMPTS = 10
"""Killed workers in a row without a new byte; each continues where the last one ended."""
_RESTART_PAUSE_S = 0.2
_SPEED_WINDOW_S = 5.0
IDLE_FIGURES: dict[str, object] = {"speed_bytes_s": None, "eta_s": None, "problem": None}
"""Of a download for which nothing arrives."""
_S = DownloadState


@dataclass
class DownloadRun:
    """The work at one download."""

    _settings: Settings
    _records: DownloadRecords
    _registrar: Registrar
    _library: NodeLibrary
    _go_for: Callable[[Download], messages.Go]
    """Returns the permission for a download that knows its size."""
    _key: str
    _worker: messages.TransferWorker | None = None

    async def run(self) -> None:
        """Work until the download has ended and update its record."""
        reference = parse_reference(self._records[self._key].reference)
        try:
            resolved = await self._transfer(reference)
            root = self._settings.models
            await asyncio.to_thread(record_download, root, reference.repo, resolved)
            self._library.wake()
            await self._registrar.register_download(self._records[self._key], resolved)
        except YardError as error:
            await self._fail(error.body().error)
        except DownloadError as error:
            await self._fail(_detail(error.code, error.sentence))
        except OSError as error:
            sentence = f"The transfer could not be started: {error.strerror}."
            await self._fail(_detail("worker_failed", sentence))
        else:
            await self._records.change(
                self._key,
                **IDLE_FIGURES,
                state=_S.FINISHED,
                bytes_done=resolved.bytes_total,
                files_done=len(self._records[self._key].files),
            )

    async def set_limit(self, bytes_per_s: int | None) -> None:
        if self._worker is not None:
            await self._worker.send(messages.Limit(limit_bytes_s=bytes_per_s))

    async def _fail(self, detail: ErrorDetail) -> None:
        await self._records.change(self._key, state=_S.FAILED, error=detail, **IDLE_FIGURES)

    async def _transfer(self, reference: Reference) -> messages.Resolved:
        failed_attempts, seen_bytes = 0, 0
        while failed_attempts < MAX_WORKER_ATTEMPTS:
            try:
                return await self._run_worker(reference)
            except messages.TransferWorkerDied:
                log.warning("transfer_worker_died", download=self._key)
            done_bytes = self._records[self._key].bytes_done
            failed_attempts = failed_attempts + 1 if done_bytes <= seen_bytes else 0
            seen_bytes = max(seen_bytes, done_bytes)
            await asyncio.sleep(_RESTART_PAUSE_S * failed_attempts)
        raise DownloadError("worker_died", "The transfer was killed several times; retry it.")

    async def _run_worker(self, reference: Reference) -> messages.Resolved:
        await self._records.change(self._key, state=_S.RESOLVING, **IDLE_FIGURES)
        job = job_of(self._settings, reference, self._records[self._key])
        progress = _ProgressPublisher(self._records, self._key)
        resolved: messages.Resolved | None = None
        async with messages.transfer_worker(job, self._settings.logs / "downloads.log") as worker:
            self._worker = worker
            try:
                async for message in worker.messages():
                    match message:
                        case messages.Resolved():
                            resolved = message
                            await self._start_transfer(worker, resolved)
                        case messages.TransferProgress():
                            await progress.on_progress(message)
                        case messages.Received():
                            progress.received_now = message.received
                        case messages.FindFilePeers() | messages.FindPeerRepo() | messages.BlacklistPeer():
                            await self._library.peers.handle(message, worker.send)
                        case messages.TransferProblem(message=sentence):
                            await self._records.update_progress(self._key, store=False, problem=sentence)
                        case messages.FileVerified(file=file):
                            log.info("file_verified", download=self._key, file=file)
                        case messages.Finished() if resolved is not None:
                            return resolved
                        case messages.Failed(code=code, message=sentence):
                            raise DownloadError(code, sentence)
            finally:
                self._worker = None
                await self._records.update_progress(self._key, store=False, received=progress.received)
        raise messages.TransferWorkerDied

    async def _start_transfer(self, worker: messages.TransferWorker, resolved: messages.Resolved) -> None:
        download = await self._records.change(
            self._key,
            state=_S.TRANSFERRING,
            quant=resolved.quant,
            is_default_quant=resolved.is_default_quant,
            revision=resolved.commit,
            files=tuple(file.path for file in resolved.files),
            bytes_total=resolved.bytes_total,
            bytes_done=resolved.bytes_total - resolved.missing_bytes,
        )
        await worker.send(self._go_for(download))


def _detail(code: str, sentence: str) -> ErrorDetail:
    return ErrorDetail(message=sentence, type="server_error", code=code)


class _ProgressPublisher:
    def __init__(self, records: DownloadRecords, key: str) -> None:
        self._records = records
        self._key = key
        self._speed = _SpeedMeter()
        self._published_at = time.monotonic()
        self._stored_at = time.monotonic()
        self._received_before = records[key].received
        self.received_now: dict[str, int] = {}
        """The bytes by source, of this worker."""

    @property
    def received(self) -> dict[str, int]:
        """The bytes by source, of this worker and those before it."""
        before, now = self._received_before, self.received_now
        return {source: before.get(source, 0) + now.get(source, 0) for source in {**before, **now}}

    async def on_progress(self, progress: messages.TransferProgress) -> None:
        now = time.monotonic()
        if now - self._published_at < PROGRESS_S:
            return
        self._published_at = now
        store = now - self._stored_at > STORE_PROGRESS_S
        self._stored_at = now if store else self._stored_at
        download = self._records[self._key]
        missing_bytes = (download.bytes_total or 0) - progress.bytes_done
        speed = self._speed.add_sample(now, progress.bytes_done)
        advances = progress.bytes_done > download.bytes_done or progress.files_done > download.files_done
        await self._records.update_progress(
            self._key,
            store=store,
            bytes_done=progress.bytes_done,
            files_done=progress.files_done,
            received=self.received,
            speed_bytes_s=speed,
            eta_s=round(missing_bytes / speed, 1) if speed else None,
            problem=None if advances else download.problem,
        )


class _SpeedMeter:
    """Bytes a second over the last five seconds."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def add_sample(self, now_s: float, bytes_done: int) -> float | None:
        """The speed with this sample; None until there are two, and after a restart of a file."""
        if self._samples and bytes_done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now_s, bytes_done))
        while len(self._samples) > 2 and self._samples[0][0] < now_s - _SPEED_WINDOW_S:
            self._samples.pop(0)
        (first_s, first_bytes), (last_s, last_bytes) = self._samples[0], self._samples[-1]
        return (last_bytes - first_bytes) / (last_s - first_s) if last_s > first_s else None


def job_of(settings: Settings, reference: Reference, download: Download) -> messages.DownloadJob:
    """The job of a download's worker; once its commit is resolved it stays at that."""
    return messages.DownloadJob(
        repo=reference.repo,
        quant=reference.quant,
        file=reference.file,
        choice=download.choice,
        revision=download.revision or reference.revision,
        folder=str(settings.models / reference.repo),
        store_root=str(settings.models),
        margin_bytes=settings.disk_margin_bytes,
        segments=settings.download_segments,
        use_peers=True,
    )
