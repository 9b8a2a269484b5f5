"""What takes long in a library: checks, repairs and imports, one at a time a store."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
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
from services.downloader.library.disk_work import sentence
from services.downloader.library.library import Library
from services.downloader.library.meter import Meter, Stopped

log = logs.get(__name__)

EVERY_S = 0.5
STORE_EVERY_S = 5.0
KEPT_S = 24 * 3600
"""How long an ended job can be looked up."""
_SHOWN_DAMAGED = 20
_S = JobState

JobWork = Callable[[LibraryJob, Meter], Coroutine[Any, Any, None]]
"""Does a job, and keeps the meter; it ends soon when the meter says so."""


class Jobs:
    """The one writer of this node's jobs."""

    def __init__(self, bus: Bus, tasks: Tasks, library: Library) -> None:
        self._bus = bus
        self._tasks = tasks
        self._library = library
        self._store = BucketStore(bus, buckets.JOBS)
        self._jobs: dict[str, LibraryJob] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._works: dict[JobKind, JobWork] = {}

    def does(self, kind: JobKind, work: JobWork) -> None:
        """How a kind of job is done."""
        self._works[kind] = work

    async def resume(self) -> None:
        """Go on with what an earlier process began."""
        known = await read_bucket(self._bus, buckets.JOBS)
        self._jobs = {key: job for key, job in known.items() if job.node == self._bus.node}
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
        """Begin a job, or join the one that is at it."""
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
        await self._step(job)
        self._spawn(job)
        return job

    async def cancel(self, key: str) -> LibraryJob:
        """End a job; what it has done stays."""
        job = self._jobs.get(key)
        if job is None:
            raise NotFound(f"There is no job {key} of the library.", param="job")
        task = self._running.pop(key, None)
        if task is not None:
            await cancel(task)
            await self._step(self._jobs[key], state=_S.CANCELLED)
        return self._jobs[key]

    def _spawn(self, job: LibraryJob) -> None:
        task = self._tasks.spawn(self._run(job.job), f"{job.kind} {job.subject}")
        self._running[job.job] = task
        task.add_done_callback(lambda _: self._running.pop(job.job, None))

    async def _run(self, key: str) -> None:
        async with self._turns[self._jobs[key].store]:
            meter = Meter()
            await self._step(self._jobs[key], state=_S.RUNNING)
            try:
                await self._watched(key, meter)
            except YardError as error:
                await self._step(self._jobs[key], state=_S.FAILED, error=error.body().error)
            except OSError as error:
                failed = Conflict(_why(error)).body().error
                await self._step(self._jobs[key], state=_S.FAILED, error=failed, **_figures(meter))
            else:
                await self._step(self._jobs[key], state=_S.FINISHED, **_figures(meter) | {"file": None})
        self._library.wake()

    async def _watched(self, key: str, meter: Meter) -> None:
        job = self._jobs[key]
        work = asyncio.ensure_future(self._works[job.kind](job, meter))
        stored_at = time.monotonic()
        try:
            while not (await asyncio.wait({work}, timeout=EVERY_S))[0]:
                job = msgspec.structs.replace(self._jobs[key], **_figures(meter))
                self._jobs[key] = job
                await self._publish(job)
                if time.monotonic() - stored_at > STORE_EVERY_S:
                    stored_at = time.monotonic()
                    await self._put(job)
            work.result()
        finally:
            # A thread cannot be cancelled: it is told, and ends at its next chunk.
            meter.stop()
            if not work.done():
                with contextlib.suppress(Stopped, OSError, YardError):
                    await work

    async def _step(self, job: LibraryJob, **changes: object) -> None:
        changed = msgspec.structs.replace(job, **changes, changed_at=time.time())
        self._jobs[job.job] = changed
        log.info("job_changed", job=job.job, kind=job.kind, subject=job.subject, state=changed.state)
        await self._put(changed)
        event = self._bus.emit(subjects.LIBRARY_JOB_CHANGED, changed, job=changed.job, state=changed.state)
        self._tasks.spawn(event, f"event job {changed.state}")
        await self._publish(changed)

    async def _put(self, job: LibraryJob) -> None:
        try:
            await self._store.put(job.job, job, ttl_s=KEPT_S)
        except BrokerUnavailable as error:
            log.warning("job_not_stored", error=error.message)

    async def _publish(self, job: LibraryJob) -> None:
        try:
            await self._bus.publish(subjects.LIBRARY_JOB_PROGRESS, job, job=job.job)
        except BrokerUnavailable as error:
            log.info("progress_not_told", error=error.message)


def _figures(meter: Meter) -> dict[str, object]:
    return {
        "bytes_total": meter.bytes_total,
        "bytes_done": meter.bytes_done,
        "file": meter.file,
        "damaged": tuple(meter.damaged[:_SHOWN_DAMAGED]),
        "linked": meter.linked,
        "received": dict(meter.received),
    }


def _why(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return f"{error} is in the store already, and it is another file; move or delete it."
    return sentence(error) if error.errno else f"{error}."
