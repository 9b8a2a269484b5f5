"""The commands of entries and the trash."""

import asyncio
from pathlib import Path

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks
from schemas import subjects
from schemas.errors import BadRequest, Conflict, NotFound, YardError
from schemas.library import (
    DeleteEntry,
    DescribeEntry,
    EntryDetails,
    EntryRestored,
    FileLocation,
    FileLocations,
    FindFile,
    FindOnNode,
    LibraryEntry,
    LibraryRef,
    StoresScanned,
    TrashedEntry,
    TrashEmptied,
    TrashRef,
    node_of,
)
from services.downloader.library import store_fs, trash
from services.downloader.library.integrity import missing_files
from services.downloader.library.library import NodeLibrary
from services.downloader.library.scanner import StoredModel, read_description
from services.downloader.library.store import LibraryStore, StoreReport, revision_of
from services.downloader.node_commands import NodeCommands

log = logs.get(__name__)

_SHOWN_FILES = 2000
_WRITING_S = 60.0
"""An incomplete file modified within this time is still being written."""


class LibraryCommands:
    def __init__(self, bus: Bus, tasks: Tasks, library: NodeLibrary, commands: Commands) -> None:
        self._bus = bus
        self._tasks = tasks
        self._library = library
        self._node_commands = NodeCommands(bus, commands, subjects.LIBRARY_AT_NODE)

    async def start(self) -> None:
        add = self._node_commands.add
        await add(subjects.LIBRARY_SHOW, self.show, lambda ref: node_of_key(ref.entry))
        await add(subjects.LIBRARY_DESCRIBE, self.describe, lambda ref: node_of_key(ref.entry))
        await add(subjects.LIBRARY_DELETE, self.delete, lambda ref: node_of_key(ref.entry))
        await add(subjects.LIBRARY_RESTORE, self.restore, lambda ref: node_of_key(ref.item))
        await add(subjects.LIBRARY_PURGE, self.purge, lambda ref: node_of_key(ref.item))
        await add(subjects.LIBRARY_EMPTY, self.empty, self._library.target_node)
        await add(subjects.LIBRARY_SCAN, self.scan, self._library.target_node)
        await add(subjects.LIBRARY_FIND, self.find_file, lambda request: request.node or self._bus.node)

    async def show(self, ref: LibraryRef) -> EntryDetails:
        """An entry with its files and what is missing."""
        store = self._library.store_of(ref.entry)
        entry, model = self._library.find(store, ref.entry)
        present = self._library.paths(store)
        missing = missing_files(model, store.scanner.recorded(model.group.folder), present)[:_SHOWN_FILES]
        return EntryDetails(entry=entry, files=tuple(model.files[:_SHOWN_FILES]), missing=tuple(missing))

    async def describe(self, order: DescribeEntry) -> LibraryEntry:
        """Set a description; Conflict if it is not of the given revision."""
        store = self._library.store_of(order.entry)
        async with store.lock:
            _, model = self._library.find(store, order.entry)
            await store_fs.in_thread(_describe, store, model, order)
            await store.refresh()
            return self._library.find(store, order.entry)[0]

    async def delete(self, order: DeleteEntry) -> TrashedEntry:
        """Move an entry to the trash; Conflict while it is in use."""
        store = self._library.store_of(order.entry)
        async with store.lock:
            # Files added since the last scan belong to the entry too.
            await store.refresh()
            entry, model = self._library.find(store, order.entry)
            if not order.force:
                self._library.check_unused(entry, model)
                _check_complete(self._library.report(store), model)
            manifest = await store_fs.in_thread(trash.put, store.root, model)
            await store.refresh()
        log.info("entry_deleted", store=entry.store, path=entry.path, bytes=entry.size_bytes)
        self._publish_change(entry, "deleted")
        return manifest.shown(self._bus.node, store.name)

    async def restore(self, ref: TrashRef) -> EntryRestored:
        """Restore an item to its place; Conflict if a file is in the way."""
        store = self._library.store_of(ref.item)
        async with store.lock:
            manifest = self._item(store, ref.item)
            try:
                await store_fs.in_thread(trash.restore, store.root, manifest)
            except FileExistsError as error:
                raise Conflict(f"{error} is there again; move or delete it, then restore.") from error
            report = await store.refresh()
        for entry in report.entries.values() if report else ():
            if entry.path == manifest.path:
                self._publish_change(entry, "restored")
        return EntryRestored(path=manifest.path, n_files=len(manifest.files))

    async def purge(self, ref: TrashRef) -> TrashEmptied:
        store = self._library.store_of(ref.item)
        async with store.lock:
            manifest = self._item(store, ref.item)
            await store_fs.in_thread(trash.purge, store.root, manifest.item)
            await store.refresh()
        return TrashEmptied(items=1, size_bytes=manifest.size_bytes)

    async def empty(self, _request: FindOnNode) -> TrashEmptied:
        emptied = []
        for store, _ in list(self._library.reports()):
            async with store.lock:
                await store.refresh()
                for manifest in list(self._library.report(store).trashed.values()):
                    await store_fs.in_thread(trash.purge, store.root, manifest.item)
                    emptied.append(manifest.size_bytes)
                await store.refresh()
        return TrashEmptied(items=len(emptied), size_bytes=sum(emptied))

    async def scan(self, _request: FindOnNode) -> StoresScanned:
        spaces = []
        for store in self._library.stores.values():
            async with store.lock:
                report = await store.refresh()
            if report is not None:
                spaces.append(report.space)
        return StoresScanned(stores=tuple(spaces))

    async def find_file(self, wanted: FindFile) -> FileLocations:
        """Files with this sha256, on one node or on all nodes."""
        files = self._find_here(wanted.sha256.lower())
        if wanted.node is None:
            others = [node for node in self._library.nodes() if node != self._bus.node]
            for found in await asyncio.gather(*(self._find_at(node, wanted.sha256) for node in others)):
                files += found
        return FileLocations(files=tuple(files))

    async def _find_at(self, node: str, sha256: str) -> tuple[FileLocation, ...]:
        request = FindFile(sha256=sha256, node=node)
        try:
            return (await self._node_commands.forward(subjects.LIBRARY_FIND, request, node)).files
        except YardError as error:
            log.info("node_query_failed", node=node, error=error.message)
            return ()

    def _find_here(self, sha256: str) -> list[FileLocation]:
        return [
            FileLocation(
                node=self._bus.node,
                store=store.name,
                path=file.path,
                size_bytes=file.size_bytes,
                verified=file.verified,
            )
            for store, report in self._library.reports()
            for model in report.result.models
            for file in model.files
            if file.sha256 == sha256
        ]

    def _item(self, store: LibraryStore, key: str) -> trash.Manifest:
        manifest = self._library.report(store).trashed.get(key.rpartition(".")[2])
        if manifest is None:
            raise NotFound(f"There is no {key} in the trash; `yard library trash` shows it.", param="item")
        return manifest

    def _publish_change(self, entry: LibraryEntry, change: str) -> None:
        event = self._bus.emit(subjects.LIBRARY_CHANGED, entry, entry=entry.entry, change=change)
        self._tasks.spawn(event, f"event entry {change}")


def node_of_key(key: str) -> str:
    """The node of an entry or trash item."""
    try:
        return node_of(key)
    except ValueError as error:
        raise BadRequest(f"{error}.") from error


def _describe(store: LibraryStore, model: StoredModel, order: DescribeEntry) -> None:
    scanner, path = store.scanner, model.group.description_path
    before, after = _description(scanner.root, path), order.description.strip()
    if order.revision is not None and order.revision != revision_of(before):
        raise Conflict("The description has changed since; read it again.", param="revision")
    if after == before:
        return
    if after:
        store_fs.write_file(scanner.root, path, after.encode() + b"\n")
    else:
        store_fs.remove_file(scanner.root, path)


def _description(root: Path, path: str) -> str:
    # An unreadable description is an error: it must not be overwritten unseen.
    try:
        return read_description(root, path)
    except FileNotFoundError:
        return ""


def _check_complete(report: StoreReport, model: StoredModel) -> None:
    folder = model.group.folder
    partials = report.result.tree.partials if folder else []
    times = [file.modified_ns for file in partials if f"{file.folder}/".startswith(f"{folder}/")]
    newest = max(times, default=0)
    if newest / 1e9 > (report.space.scanned_at or 0.0) - _WRITING_S:
        raise Conflict(
            f"Files are still being written into {folder}; wait for that or cancel it, or force it."
        )
