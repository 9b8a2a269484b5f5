"""Long jobs of a library (verify, repair, import, copy), one at a time a store."""

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks, cancel
from schemas import buckets, subjects
from schemas.base import new_id
from schemas.errors import BrokerUnavailable, Conflict, NotFound, YardError
from schemas.library import JOB_ENDED, JobKind, JobState, LibraryJob
from services.downloader.library.library import NodeLibrary
from services.downloader.library.store_fs import disk_error

log = logs.get(__name__)
PROGRESS_INTERVAL_S = 0.5
PUT_INTERVAL_S = 5.0
JOB_TTL_S = 24 * 3600
"""Lifetime of an ended job's record."""
_SHOWN_DAMAGED = 20
_S = JobState


class JobCancelled(Exception):
    """The job was cancelled."""


@dataclass
class JobProgress:
    """Written by one thread, read by another; single numbers need no lock."""

    bytes_total: int = 0
    bytes_done: int = 0
    file: str | None = None
    damaged: list[str] = field(default_factory=list)
    linked: int = 0
    received: dict[str, int] = field(default_factory=dict)
    """Bytes by source."""
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """End the job at its next chunk."""
        self._cancelled.set()

    def add(self, n_bytes: int) -> None:
        """Count bytes that are done; JobCancelled after `cancel()`."""
        self.bytes_done += n_bytes
        if self._cancelled.is_set():
            raise JobCancelled


JobHandler = Callable[[LibraryJob, JobProgress], Coroutine[Any, Any, None]]
"""Does a job and counts its progress; ends soon after the progress is cancelled."""


@dataclass
class JobQueue:
    """Runs the jobs of this node, and is the one writer of their records."""

    _bus: Bus
    _tasks: Tasks
    _library: NodeLibrary
    _handlers: Mapping[JobKind, JobHandler]
    _jobs: dict[str, LibraryJob] = field(default_factory=dict)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _store_locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def resume(self) -> None:
        """Resume the jobs of an earlier process."""
        stored = await read_bucket(self._bus, buckets.JOBS)
        self._jobs = {key: job for key, job in stored.items() if job.node == self._bus.node}
        for job in self._jobs.values():
            if job.state not in JOB_ENDED:
                self._spawn(job)

    async def start(
        self,
        kind: JobKind,
        store: str,
        subject: str,
        *,
        revision: str | None = None,
        source: str | None = None,
    ) -> LibraryJob:
        """Start a job; the same job if one for this subject is running."""
        for job in self._jobs.values():
            if job.state not in JOB_ENDED and (job.kind, job.store, job.subject) == (kind, store, subject):
                return job
        now = time.time()
        job = LibraryJob(
            job=new_id(),
            kind=kind,
            node=self._bus.node,
            store=store,
            subject=subject,
            state=_S.QUEUED,
            created_at=now,
            changed_at=now,
            revision=revision,
            source=source,
        )
        await self._update(job)
        self._spawn(job)
        return job

    async def cancel(self, key: str) -> LibraryJob:
        """Cancel a job; its finished part stays."""
        job = self._jobs.get(key)
        if job is None:
            raise NotFound(f"There is no job {key} of the library.", param="job")
        task = self._running.pop(key, None)
        if task is not None:
            await cancel(task)
            await self._update(self._jobs[key], state=_S.CANCELLED)
        return self._jobs[key]

    def _spawn(self, job: LibraryJob) -> None:
        task = self._tasks.spawn(self._run(job.job), f"{job.kind} {job.subject}")
        self._running[job.job] = task
        task.add_done_callback(lambda _: self._running.pop(job.job, None))

    async def _run(self, key: str) -> None:
        async with self._store_locks[self._jobs[key].store]:
            progress = JobProgress()
            await self._update(self._jobs[key], state=_S.RUNNING)
            try:
                await self._run_handler(key, progress)
            except YardError as error:
                await self._update(self._jobs[key], state=_S.FAILED, error=error.body().error)
            except OSError as error:
                failed = Conflict(_reason(error)).body().error
                await self._update(self._jobs[key], state=_S.FAILED, error=failed, **_figures(progress))
            else:
                await self._update(self._jobs[key], state=_S.FINISHED, **_figures(progress) | {"file": None})
        self._library.wake()

    async def _run_handler(self, key: str, progress: JobProgress) -> None:
        job = self._jobs[key]
        work = asyncio.ensure_future(self._handlers[job.kind](job, progress))
        stored_at = time.monotonic()
        try:
            while not (await asyncio.wait({work}, timeout=PROGRESS_INTERVAL_S))[0]:
                job = msgspec.structs.replace(self._jobs[key], **_figures(progress))
                self._jobs[key] = job
                await self._publish(job)
                if time.monotonic() - stored_at > PUT_INTERVAL_S:
                    stored_at = time.monotonic()
                    await self._put(job)
            work.result()
        finally:
            # A thread cannot be cancelled: it ends at its next chunk.
            progress.cancel()
            if not work.done():
                with contextlib.suppress(JobCancelled, OSError, YardError):
                    await work

    async def _update(self, job: LibraryJob, **changes: object) -> None:
        changed = msgspec.structs.replace(job, **changes, changed_at=time.time())
        self._jobs[job.job] = changed
        log.info("job_changed", job=job.job, kind=job.kind, subject=job.subject, state=changed.state)
        await self._put(changed)
        event = self._bus.emit(subjects.LIBRARY_JOB_CHANGED, changed, job=changed.job, state=changed.state)
        self._tasks.spawn(event, f"event job {changed.state}")
        await self._publish(changed)

    async def _put(self, job: LibraryJob) -> None:
        try:
            await BucketStore(self._bus, buckets.JOBS).put(job.job, job, ttl_s=JOB_TTL_S)
        except BrokerUnavailable as error:
            log.warning("job_not_stored", error=error.message)

    async def _publish(self, job: LibraryJob) -> None:
        try:
            await self._bus.publish(subjects.LIBRARY_JOB_PROGRESS, job, job=job.job)
        except BrokerUnavailable as error:
            log.info("job_progress_not_published", error=error.message)


def _figures(progress: JobProgress) -> dict[str, object]:
    return {
        "bytes_total": progress.bytes_total,
        "bytes_done": progress.bytes_done,
        "file": progress.file,
        "damaged": tuple(progress.damaged[:_SHOWN_DAMAGED]),
        "linked": progress.linked,
        "received": dict(progress.received),
    }


def _reason(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return f"{error} is in the store already, and it is another file; move or delete it."
    return disk_error(error) if error.errno else f"{error}."
