"""The library for scripts."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from schemas import buckets, subjects
from schemas.errors import BadRequest, NotFound
from schemas.library import (
    JOB_ENDED,
    AskNode,
    CachedModels,
    CopyEntry,
    DeleteEntry,
    DescribeEntry,
    EntryDetails,
    FindFile,
    FoundFiles,
    ImportCached,
    JobRef,
    LibraryEntry,
    LibraryJob,
    LibraryRef,
    Restored,
    Scanned,
    StoreSpace,
    TrashedEntry,
    TrashEmptied,
    TrashRef,
)

N = TypeVar("N", LibraryEntry, TrashedEntry)

_SILENCE_S = 3.0
"""After this long without news of a job its record is read: progress, and even an event, may be lost."""


class Library:
    """What lies on the disks of the nodes. Entries are named by their key, `node.store.entry`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def entries(self) -> dict[str, LibraryEntry]:
        """Every model on disk, by key."""
        return await read_bucket(self._bus, buckets.LIBRARY)

    async def stores(self) -> dict[str, StoreSpace]:
        """Every store whose downloader is there, by `node.store`."""
        return await read_bucket(self._bus, buckets.STORES)

    async def trash(self) -> dict[str, TrashedEntry]:
        """What was deleted and can be restored, by key."""
        return await read_bucket(self._bus, buckets.TRASH)

    async def find(self, name: str) -> LibraryEntry:
        """The one entry of this key, path or name, or whose path ends so; NotFound or BadRequest else."""
        return _the_one(name, await self.entries(), "entry of the library")

    async def find_trashed(self, name: str) -> TrashedEntry:
        """The one item of the trash of this key, path or name; the newest of several at one path."""
        items = await self.trash()
        newest = {item.path: item for item in sorted(items.values(), key=lambda item: item.trashed_at)}
        return items.get(name) or _the_one(
            name, {one.key: one for one in newest.values()}, "item of the trash"
        )

    async def show(self, entry: str) -> EntryDetails:
        """An entry with its files and their sha256."""
        return await self._bus.call(subjects.LIBRARY_SHOW, LibraryRef(entry=entry))

    async def describe(self, entry: str, description: str, revision: str | None = None) -> LibraryEntry:
        """Write a description; with the `revision` that was seen it replaces no other one."""
        order = DescribeEntry(entry=entry, description=description, revision=revision)
        return await self._bus.call(subjects.LIBRARY_DESCRIBE, order)

    async def delete(self, entry: str, *, force: bool = False) -> TrashedEntry:
        """Into the trash; `force`: though a model needs it."""
        return await self._bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry, force=force))

    async def restore(self, item: str) -> Restored:
        """Out of the trash, to where it was."""
        return await self._bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=item))

    async def purge(self, item: str) -> TrashEmptied:
        """Out of the trash, for good."""
        return await self._bus.call(subjects.LIBRARY_PURGE, TrashRef(item=item))

    async def empty(self, node: str | None = None) -> TrashEmptied:
        """All of a node's trash, for good."""
        return await self._bus.call(subjects.LIBRARY_EMPTY, AskNode(node=node))

    async def verify(self, entry: str) -> LibraryJob:
        """Have every byte read; `follow` tells what comes of it."""
        return await self._bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry))

    async def repair(self, entry: str) -> LibraryJob:
        """Have damaged and missing files fetched again."""
        return await self._bus.call(subjects.LIBRARY_REPAIR, LibraryRef(entry=entry))

    async def cached(self, node: str | None = None) -> CachedModels:
        """What the Hub's own cache of a node holds."""
        return await self._bus.call(subjects.LIBRARY_CACHED, AskNode(node=node))

    async def take_in(self, order: ImportCached) -> LibraryJob:
        """Have a model of that cache brought into a store."""
        return await self._bus.call(subjects.LIBRARY_IMPORT, order)

    async def copy(self, entry: str, node: str, store: str | None = None) -> LibraryJob:
        """Have an entry brought to another node, from the nodes that have its files."""
        return await self._bus.call(subjects.LIBRARY_COPY, CopyEntry(entry=entry, node=node, store=store))

    async def cancel(self, job: str) -> LibraryJob:
        """End a job; what it has done stays."""
        return await self._bus.call(subjects.LIBRARY_CANCEL, JobRef(job=job))

    async def find_file(self, sha256: str) -> FoundFiles:
        """Every node and place that has a file with this sha256."""
        return await self._bus.call(subjects.LIBRARY_FIND, FindFile(sha256=sha256))

    async def scan(self, node: str | None = None) -> Scanned:
        """Have a node look at its stores now."""
        return await self._bus.call(subjects.LIBRARY_SCAN, AskNode(node=node))

    async def follow(self, job: LibraryJob) -> AsyncGenerator[LibraryJob, None]:
        """Every update of a job until it has ended; leaving early leaves it running."""
        updates: asyncio.Queue[LibraryJob] = asyncio.Queue()

        async def on_update(_: dict[str, str], update: LibraryJob) -> None:
            updates.put_nowait(update)

        sub = await self._bus.subscribe(subjects.LIBRARY_JOB_PROGRESS, on_update, job=job.job)
        try:
            # It may have ended before anybody listened.
            latest = await self._job(job.job)
            yield latest
            while latest.state not in JOB_ENDED:
                latest = await self._next(updates, latest)
                yield latest
        finally:
            if self._bus.connected:
                await sub.unsubscribe()

    async def _next(self, updates: "asyncio.Queue[LibraryJob]", latest: LibraryJob) -> LibraryJob:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_S):
                return await updates.get()
        return await self._job(latest.job)

    async def _job(self, job: str) -> LibraryJob:
        found = await read_bucket(self._bus, buckets.JOBS, job)
        if job not in found:
            raise NotFound(f"The job {job} is no longer known in the yard.", param="job")
        return found[job]


def _the_one(name: str, known: dict[str, N], what: str) -> N:
    if name in known:
        return known[name]
    exact = [one for one in known.values() if name in (one.path, one.name)]
    ending = [one for one in known.values() if one.path.endswith(f"/{name}") or one.name.endswith(f"/{name}")]
    for found in (exact, ending):
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(sorted(one.key for one in found))
            raise BadRequest(f"{name} could be several: {keys}. Give one of these keys.", param="entry")
    raise NotFound(f"There is no {what} called {name}.", param="entry")
