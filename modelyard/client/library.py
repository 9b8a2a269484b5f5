"""The library: what is on the disks of the nodes, and the jobs that work on it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from modelyard.bus.reads import read_bucket
from modelyard.client.commands import BucketMethod, CommandGroup, CommandMethod
from schemas import buckets, subjects
from schemas.errors import BadRequest, NotFound
from schemas.library import (
    JOB_ENDED,
    AskNode,
    CopyEntry,
    DeleteEntry,
    DescribeEntry,
    FindFile,
    ImportCached,
    JobRef,
    LibraryEntry,
    LibraryJob,
    LibraryRef,
    TrashedEntry,
    TrashRef,
)

N = TypeVar("N", LibraryEntry, TrashedEntry)

_SILENCE_S = 3.0
"""After this long without an update of a job its record is read: progress, and even an event, may be lost."""


class LibraryClient(CommandGroup):
    """Entries, trash and jobs. An entry is named by its key, `node.store.entry`."""

    show = CommandMethod(subjects.LIBRARY_SHOW, LibraryRef)
    describe = CommandMethod(subjects.LIBRARY_DESCRIBE, DescribeEntry)
    delete = CommandMethod(subjects.LIBRARY_DELETE, DeleteEntry)
    restore = CommandMethod(subjects.LIBRARY_RESTORE, TrashRef)
    purge = CommandMethod(subjects.LIBRARY_PURGE, TrashRef)
    empty_trash = CommandMethod(subjects.LIBRARY_EMPTY, AskNode)
    verify = CommandMethod(subjects.LIBRARY_VERIFY, LibraryRef)
    repair = CommandMethod(subjects.LIBRARY_REPAIR, LibraryRef)
    cached = CommandMethod(subjects.LIBRARY_CACHED, AskNode)
    import_cached = CommandMethod(subjects.LIBRARY_IMPORT, ImportCached)
    copy = CommandMethod(subjects.LIBRARY_COPY, CopyEntry)
    cancel = CommandMethod(subjects.LIBRARY_CANCEL, JobRef)
    find_file = CommandMethod(subjects.LIBRARY_FIND, FindFile)
    scan = CommandMethod(subjects.LIBRARY_SCAN, AskNode)
    entries = BucketMethod(buckets.LIBRARY)
    stores = BucketMethod(buckets.STORES)
    trash = BucketMethod(buckets.TRASH)

    async def find(self, name: str) -> LibraryEntry:
        """The one entry of this key, path or name, or whose path ends so; else NotFound or BadRequest."""
        return _find_one(name, await self.entries(), "entry of the library")

    async def find_trashed(self, name: str) -> TrashedEntry:
        """The one trashed item of this key, path or name; the newest of several at one path."""
        items = await self.trash()
        newest = {item.path: item for item in sorted(items.values(), key=lambda item: item.trashed_at)}
        by_key = {item.key: item for item in newest.values()}
        return items.get(name) or _find_one(name, by_key, "item of the trash")

    async def follow(self, job: LibraryJob) -> AsyncGenerator[LibraryJob, None]:
        """Every update of a job until it has ended; closing the generator leaves the job running."""
        updates: asyncio.Queue[LibraryJob] = asyncio.Queue()

        async def on_update(_: dict[str, str], update: LibraryJob) -> None:
            updates.put_nowait(update)

        sub = await self.bus.subscribe(subjects.LIBRARY_JOB_PROGRESS, on_update, job=job.job)
        try:
            # It may have ended before the subscription.
            latest = await self._read_job(job.job)
            yield latest
            while latest.state not in JOB_ENDED:
                latest = await self._next_update(updates, latest)
                yield latest
        finally:
            if self.bus.connected:
                await sub.unsubscribe()

    async def _next_update(self, updates: "asyncio.Queue[LibraryJob]", latest: LibraryJob) -> LibraryJob:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_S):
                return await updates.get()
        return await self._read_job(latest.job)

    async def _read_job(self, job: str) -> LibraryJob:
        jobs = await read_bucket(self.bus, buckets.JOBS, job)
        if job not in jobs:
            raise NotFound(f"The job {job} is no longer known in the yard.", param="job")
        return jobs[job]


def _find_one(name: str, known: dict[str, N], what: str) -> N:
    if name in known:
        return known[name]
    exact = [item for item in known.values() if name in (item.path, item.name)]
    suffix = f"/{name}"
    ending = [item for item in known.values() if item.path.endswith(suffix) or item.name.endswith(suffix)]
    for matches in (exact, ending):
        if len(matches) == 1:
            return matches[0]
        if matches:
            keys = ", ".join(sorted(item.key for item in matches))
            raise BadRequest(f"{name} could be several: {keys}. Give one of these keys.", param="entry")
    raise NotFound(f"There is no {what} called {name}.", param="entry")
