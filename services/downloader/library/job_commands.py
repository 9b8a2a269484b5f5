"""The commands that begin something long: check, repair, import; and the one that ends it."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from modelyard.text import format_size
from schemas import subjects
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.library import (
    AskNode,
    CachedModel,
    CachedModels,
    CopyEntry,
    ImportCached,
    JobKind,
    JobRef,
    LibraryEntry,
    LibraryJob,
    LibraryRef,
    entry_id,
)
from services.downloader.library import hub_cache
from services.downloader.library.commands import only_node, owner
from services.downloader.library.copying import listing, missing, noted, wanted
from services.downloader.library.disk_work import on_disk
from services.downloader.library.file_fetch import fetch_files
from services.downloader.library.hub_cache import Snapshot
from services.downloader.library.jobs import Jobs
from services.downloader.library.keeper import Keeper
from services.downloader.library.library import Library
from services.downloader.library.meter import Meter
from services.downloader.library.records import FileRecord
from services.downloader.library.repairing import wanted_files
from services.downloader.library.shelf import Model
from services.downloader.library.verifying import verify
from services.downloader.library.walk import Found
from services.downloader.node_commands import NodeCommands
from services.downloader.worker.messages import FilesJob, WantedFile

_REPO = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?")


class JobCommands:
    """Turns orders into jobs, and does them."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        settings: Settings,
        library: Library,
        commands: Commands,
        known: BucketCache[LibraryJob],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._library = library
        self._known = known
        self._node_commands = NodeCommands(bus, commands, subjects.LIBRARY_AT_NODE)
        self._jobs = Jobs(bus, tasks, library)

    async def start(self) -> None:
        """Answer from now on, and go on with what an earlier process began."""
        self._jobs.does(JobKind.VERIFY, self._verify)
        self._jobs.does(JobKind.REPAIR, self._repair)
        self._jobs.does(JobKind.IMPORT, self._import)
        self._jobs.does(JobKind.COPY, self._copy)
        add = self._node_commands.add
        await add(subjects.LIBRARY_VERIFY, self.verify, lambda ref: owner(ref.entry))
        await add(subjects.LIBRARY_REPAIR, self.repair, lambda ref: owner(ref.entry))
        await add(subjects.LIBRARY_CACHED, self.cached, lambda asked: only_node(self._library, asked.node))
        await add(subjects.LIBRARY_IMPORT, self.take_in, lambda asked: only_node(self._library, asked.node))
        await add(subjects.LIBRARY_COPY, self.copy, lambda order: order.node)
        await add(subjects.LIBRARY_CANCEL, self.cancel, self._node_of_job)
        await self._jobs.resume()

    def _node_of_job(self, ref: JobRef) -> str:
        job = self._known.values.get(ref.job)
        return job.node if job else self._bus.node

    async def cancel(self, ref: JobRef) -> LibraryJob:
        """End a job."""
        return await self._jobs.cancel(ref.job)

    async def verify(self, ref: LibraryRef) -> LibraryJob:
        """Read an entry's bytes."""
        keeper = self._library.keeper_of(ref.entry)
        entry, model = self._library.find(keeper, ref.entry)
        if not model.files:
            raise Conflict(f"{entry.path} has no files of its own to check.")
        return await self._jobs.start(JobKind.VERIFY, keeper.shelf.name, entry.path)

    async def repair(self, ref: LibraryRef) -> LibraryJob:
        """Fetch what is damaged or missing; Conflict if that is nothing."""
        keeper = self._library.keeper_of(ref.entry)
        async with keeper.lock:
            await keeper.refresh()
        entry, model = self._library.find(keeper, ref.entry)
        recorded = keeper.shelf.recorded(model.group.folder)
        if not wanted_files(model, recorded, self._library.paths(keeper)):
            raise Conflict(
                f"Nothing of {entry.path} is known to be damaged; check it first: yard library verify."
            )
        return await self._jobs.start(JobKind.REPAIR, keeper.shelf.name, entry.path)

    async def cached(self, _asked: AskNode) -> CachedModels:
        """What the Hub's cache of this node holds."""
        folder = await asyncio.to_thread(hub_cache.cache_folder)
        found = await on_disk(hub_cache.snapshots, folder)
        return CachedModels(
            node=self._bus.node, folder=str(folder), models=tuple(self._shown(one) for one in found)
        )

    def _shown(self, snapshot: Snapshot) -> CachedModel:
        return CachedModel(
            repo=snapshot.repo,
            revision=snapshot.revision,
            size_bytes=snapshot.size_bytes,
            size=format_size(snapshot.size_bytes),
            n_files=len(snapshot.files),
            modified_at=snapshot.modified_at,
            imported=any(
                self._has(survey.look.tree.files, snapshot) for _, survey in self._library.surveys()
            ),
        )

    def _has(self, files: list[Found], snapshot: Snapshot) -> bool:
        sizes = {file.path: file.size_bytes for file in files}
        wanted = {hub_cache.target(snapshot, file): file.size_bytes for file in snapshot.files}
        return bool(wanted) and all(sizes.get(path) == size for path, size in wanted.items())

    async def take_in(self, order: ImportCached) -> LibraryJob:
        """Begin an import; NotFound if the cache has no such model."""
        if not _REPO.fullmatch(order.repo) or ".." in order.repo:
            raise BadRequest(
                f"{order.repo!r} is not a repository name; write it as on the hub.", param="repo"
            )
        keeper = self._library.keeper(order.store)
        snapshot = await self._snapshot(order.repo, order.revision)
        return await self._jobs.start(
            JobKind.IMPORT, keeper.shelf.name, order.repo, revision=snapshot.revision
        )

    async def _snapshot(self, repo: str, revision: str | None) -> Snapshot:
        folder = await asyncio.to_thread(hub_cache.cache_folder)
        for one in await on_disk(hub_cache.snapshots, folder):
            if one.repo == repo and one.revision.startswith(revision or ""):
                return one
        at = f" at {revision}" if revision else ""
        raise NotFound(f"{repo}{at} is not in the Hub's cache of {self._bus.node} ({folder}).", param="repo")

    async def _import(self, job: LibraryJob, meter: Meter) -> None:
        keeper = self._library.keeper(job.store)
        snapshot = await self._snapshot(job.subject, job.revision)
        await asyncio.to_thread(hub_cache.take_in, keeper.shelf.root, snapshot, meter)

    async def _verify(self, job: LibraryJob, meter: Meter) -> None:
        root, model = await self._model(job)
        await asyncio.to_thread(verify, root, model, job.created_at, meter)
        if meter.damaged:
            entry = (await self._found(job))[1]
            await self._bus.emit(subjects.LIBRARY_CHANGED, entry, entry=entry.entry, change="damaged")

    async def _repair(self, job: LibraryJob, meter: Meter) -> None:
        root, model = await self._model(job)
        keeper = self._library.keeper(job.store)
        recorded = keeper.shelf.recorded(model.group.folder)
        files = wanted_files(model, recorded, self._library.paths(keeper))
        meter.bytes_total = sum(file.size_bytes for file in files)
        await self._fetch(root, files, {**recorded, **model.record}, meter)

    async def copy(self, order: CopyEntry) -> LibraryJob:
        """Begin to bring an entry of another node here."""
        if owner(order.entry) == self._bus.node:
            raise Conflict(f"The entry lies on {self._bus.node} already.", param="node")
        keeper = self._library.keeper(order.store)
        found = await self._library.finder.entry(order.entry)
        return await self._jobs.start(JobKind.COPY, keeper.shelf.name, found.path, source=order.entry)

    async def _copy(self, job: LibraryJob, meter: Meter) -> None:
        keeper = self._library.keeper(job.store)
        root = keeper.shelf.root
        found = await listing(self._library.finder, job.source or "", meter)
        files = await asyncio.to_thread(missing, root, found, meter)
        await self._fetch(root, [wanted(file) for file in files], noted(files), meter)

    async def _fetch(
        self, root: Path, files: list[WantedFile], recorded: Mapping[str, FileRecord], meter: Meter
    ) -> None:
        job = FilesJob(
            store_root=str(root),
            files=tuple(files),
            segments=self._settings.download_segments,
            margin_bytes=self._settings.disk_margin_bytes,
            use_peers=True,
        )
        log_path = self._settings.logs / "downloads.log"
        await fetch_files(job, log_path, self._library.finder, recorded, meter)

    async def _model(self, job: LibraryJob) -> tuple[Path, Model]:
        """What the job is about, as it is now."""
        keeper, _, model = await self._found(job)
        return keeper.shelf.root, model

    async def _found(self, job: LibraryJob) -> tuple[Keeper, LibraryEntry, Model]:
        keeper = self._library.keeper(job.store)
        async with keeper.lock:
            await keeper.refresh()
        return keeper, *self._library.find(keeper, f"{job.node}.{job.store}.{entry_id(job.subject)}")
