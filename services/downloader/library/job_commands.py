"""The commands that start long jobs (verify, repair, import, copy), and the one that cancels them."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    CachedModel,
    CachedModels,
    CopyEntry,
    FindOnNode,
    ImportCached,
    JobKind,
    JobRef,
    LibraryEntry,
    LibraryJob,
    LibraryRef,
    entry_id,
)
from services.downloader.library import file_fetch, hub_cache
from services.downloader.library.commands import node_of_key
from services.downloader.library.integrity import files_to_repair, verify
from services.downloader.library.jobs import JobProgress, JobQueue
from services.downloader.library.library import NodeLibrary
from services.downloader.library.records import FileRecord
from services.downloader.library.scanner import StoredModel
from services.downloader.library.store import LibraryStore
from services.downloader.library.store_fs import in_thread
from services.downloader.library.walk import ScannedFile
from services.downloader.node_commands import NodeCommands
from services.downloader.worker.messages import FilesJob, WantedFile

_REPO = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?")


@dataclass
class JobCommands:
    _bus: Bus
    _tasks: Tasks
    _settings: Settings
    _library: NodeLibrary
    _published: BucketCache[LibraryJob]

    def __post_init__(self) -> None:
        handlers = {
            JobKind.VERIFY: self._verify,
            JobKind.REPAIR: self._repair,
            JobKind.IMPORT: self._import,
            JobKind.COPY: self._copy,
        }
        self._jobs = JobQueue(self._bus, self._tasks, self._library, handlers)

    async def start(self, commands: Commands) -> None:
        """Register the commands, and resume the jobs of an earlier process."""
        add = NodeCommands(self._bus, commands, subjects.LIBRARY_AT_NODE).add
        await add(subjects.LIBRARY_VERIFY, self.verify, lambda ref: node_of_key(ref.entry))
        await add(subjects.LIBRARY_REPAIR, self.repair, lambda ref: node_of_key(ref.entry))
        await add(subjects.LIBRARY_CACHED, self.cached, self._library.target_node)
        await add(subjects.LIBRARY_IMPORT, self.import_cached, self._library.target_node)
        await add(subjects.LIBRARY_COPY, self.copy, lambda order: order.node)
        await add(subjects.LIBRARY_CANCEL, self.cancel, self._node_of_job)
        await self._jobs.resume()

    def _node_of_job(self, ref: JobRef) -> str:
        job = self._published.values.get(ref.job)
        return job.node if job else self._bus.node

    async def cancel(self, ref: JobRef) -> LibraryJob:
        return await self._jobs.cancel(ref.job)

    async def verify(self, ref: LibraryRef) -> LibraryJob:
        store = self._library.store_of(ref.entry)
        entry, model = self._library.find(store, ref.entry)
        if not model.files:
            raise Conflict(f"{entry.path} has no files of its own to check.")
        return await self._jobs.start(JobKind.VERIFY, store.name, entry.path)

    async def repair(self, ref: LibraryRef) -> LibraryJob:
        """Start to fetch damaged and missing files; Conflict if there are none."""
        store = self._library.store_of(ref.entry)
        async with store.lock:
            await store.refresh()
        entry, model = self._library.find(store, ref.entry)
        recorded = store.scanner.recorded(model.group.folder)
        if not files_to_repair(model, recorded, self._library.paths(store)):
            raise Conflict(
                f"No file of {entry.path} is damaged or missing; check it first: yard library verify."
            )
        return await self._jobs.start(JobKind.REPAIR, store.name, entry.path)

    async def cached(self, _request: FindOnNode) -> CachedModels:
        folder = await asyncio.to_thread(hub_cache.cache_folder)
        snapshots = await in_thread(hub_cache.snapshots, folder)
        return CachedModels(
            node=self._bus.node,
            folder=str(folder),
            models=tuple(self._cached_model(snapshot) for snapshot in snapshots),
        )

    def _cached_model(self, snapshot: hub_cache.Snapshot) -> CachedModel:
        return CachedModel(
            repo=snapshot.repo,
            revision=snapshot.revision,
            size_bytes=snapshot.size_bytes,
            size=format_size(snapshot.size_bytes),
            n_files=len(snapshot.files),
            modified_at=snapshot.modified_at,
            imported=any(
                _has_files(report.result.tree.files, snapshot) for _, report in self._library.reports()
            ),
        )

    async def import_cached(self, order: ImportCached) -> LibraryJob:
        """Start an import; NotFound if the cache has no such model."""
        if not _REPO.fullmatch(order.repo) or ".." in order.repo:
            raise BadRequest(
                f"{order.repo!r} is not a repository name; write it as on the hub.", param="repo"
            )
        store = self._library.store(order.store)
        snapshot = await self._snapshot(order.repo, order.revision)
        return await self._jobs.start(JobKind.IMPORT, store.name, order.repo, revision=snapshot.revision)

    async def _snapshot(self, repo: str, revision: str | None) -> hub_cache.Snapshot:
        folder = await asyncio.to_thread(hub_cache.cache_folder)
        for snapshot in await in_thread(hub_cache.snapshots, folder):
            if snapshot.repo == repo and snapshot.revision.startswith(revision or ""):
                return snapshot
        at = f" at {revision}" if revision else ""
        raise NotFound(f"{repo}{at} is not in the Hub's cache of {self._bus.node} ({folder}).", param="repo")

    async def _import(self, job: LibraryJob, progress: JobProgress) -> None:
        store = self._library.store(job.store)
        snapshot = await self._snapshot(job.subject, job.revision)
        await asyncio.to_thread(hub_cache.import_snapshot, store.root, snapshot, progress)

    async def _verify(self, job: LibraryJob, progress: JobProgress) -> None:
        store, _, model = await self._scanned(job)
        await asyncio.to_thread(verify, store.root, model, job.created_at, progress)
        if progress.damaged:
            _, entry, _ = await self._scanned(job)
            await self._bus.emit(subjects.LIBRARY_CHANGED, entry, entry=entry.entry, change="damaged")

    async def _repair(self, job: LibraryJob, progress: JobProgress) -> None:
        store, _, model = await self._scanned(job)
        recorded = store.scanner.recorded(model.group.folder)
        files = files_to_repair(model, recorded, self._library.paths(store))
        progress.bytes_total = sum(file.size_bytes for file in files)
        await self._fetch(store.root, files, {**recorded, **model.record}, progress)

    async def copy(self, order: CopyEntry) -> LibraryJob:
        """Start to copy an entry from another node."""
        if node_of_key(order.entry) == self._bus.node:
            raise Conflict(f"The entry is on {self._bus.node} already.", param="node")
        store = self._library.store(order.store)
        files = await self._library.peers.entry(order.entry)
        return await self._jobs.start(JobKind.COPY, store.name, files.path, source=order.entry)

    async def _copy(self, job: LibraryJob, progress: JobProgress) -> None:
        root = self._library.store(job.store).root
        entry = await file_fetch.await_listing(self._library.peers, job.source or "", progress)
        files = await asyncio.to_thread(file_fetch.missing_here, root, entry, progress)
        recorded = {file.path: file_fetch.record_of(file) for file in files}
        await self._fetch(root, [file_fetch.wanted_file(file) for file in files], recorded, progress)

    async def _fetch(
        self, root: Path, files: list[WantedFile], recorded: Mapping[str, FileRecord], progress: JobProgress
    ) -> None:
        job = FilesJob(
            store_root=str(root),
            files=tuple(files),
            segments=self._settings.download_segments,
            margin_bytes=self._settings.disk_margin_bytes,
            use_peers=True,
        )
        log_path = self._settings.logs / "downloads.log"
        await file_fetch.fetch_files(job, log_path, self._library.peers, recorded, progress)

    async def _scanned(self, job: LibraryJob) -> tuple[LibraryStore, LibraryEntry, StoredModel]:
        store = self._library.store(job.store)
        async with store.lock:
            await store.refresh()
        return store, *self._library.find(store, f"{job.node}.{job.store}.{entry_id(job.subject)}")


def _has_files(files: list[ScannedFile], snapshot: hub_cache.Snapshot) -> bool:
    sizes = {file.path: file.size_bytes for file in files}
    wanted = {hub_cache.target_path(snapshot, file): file.size_bytes for file in snapshot.files}
    return bool(wanted) and all(sizes.get(path) == size for path, size in wanted.items())
