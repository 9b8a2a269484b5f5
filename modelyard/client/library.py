"""The library: what is on the disks of the nodes, and the jobs that work on it."""

from collections.abc import AsyncGenerator
from typing import TypeVar

from modelyard.bus.reads import read_bucket
from modelyard.client.commands import CommandGroup, CommandMethod, values_of
from modelyard.client.follow import RecordFollower
from schemas import buckets, subjects
from schemas.errors import BadRequest, NotFound
from schemas.library import JOB_ENDED, LibraryEntry, LibraryJob, TrashedEntry

N = TypeVar("N", LibraryEntry, TrashedEntry)


class LibraryClient(CommandGroup):
    """Entries, trash and jobs. An entry is named by its key, `node.store.entry`."""

    show = CommandMethod(subjects.LIBRARY_SHOW)
    describe = CommandMethod(subjects.LIBRARY_DESCRIBE)
    delete = CommandMethod(subjects.LIBRARY_DELETE)
    restore = CommandMethod(subjects.LIBRARY_RESTORE)
    purge = CommandMethod(subjects.LIBRARY_PURGE)
    empty_trash = CommandMethod(subjects.LIBRARY_EMPTY)
    verify = CommandMethod(subjects.LIBRARY_VERIFY)
    repair = CommandMethod(subjects.LIBRARY_REPAIR)
    cached = CommandMethod(subjects.LIBRARY_CACHED)
    import_cached = CommandMethod(subjects.LIBRARY_IMPORT)
    copy = CommandMethod(subjects.LIBRARY_COPY)
    cancel = CommandMethod(subjects.LIBRARY_CANCEL)
    find_file = CommandMethod(subjects.LIBRARY_FIND)
    scan = CommandMethod(subjects.LIBRARY_SCAN)
    entries = values_of(buckets.LIBRARY)
    stores = values_of(buckets.STORES)
    trash = values_of(buckets.TRASH)

    async def find(self, name: str) -> LibraryEntry:
        """The one entry of this key, path or name, or whose path ends so; else NotFound or BadRequest."""
        return _find_one(name, await self.entries(), "entry of the library")

    async def find_trashed(self, name: str) -> TrashedEntry:
        """The one trashed item of this key, path or name; the newest of several at one path."""
        items = await self.trash()
        newest = {item.path: item for item in sorted(items.values(), key=lambda item: item.trashed_at)}
        by_key = {item.key: item for item in newest.values()}
        return items.get(name) or _find_one(name, by_key, "item of the trash")

    def follow(self, job: LibraryJob) -> AsyncGenerator[LibraryJob, None]:
        """Every update of a job until it has ended; closing the generator leaves the job running."""
        progress = (subjects.LIBRARY_JOB_PROGRESS,)
        follower = RecordFollower(self.bus, "job", buckets.JOBS, progress, JOB_ENDED)

        async def begin() -> tuple[LibraryJob, ...]:
            # It may have ended before the subscription.
            return (follower.record(await read_bucket(self.bus, buckets.JOBS, job.job), job.job),)

        return follower.follow(begin, job=job.job)


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
