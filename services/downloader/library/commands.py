"""The commands about entries and the trash."""

import asyncio

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks
from schemas import subjects
from schemas.errors import BadRequest, Conflict, NotFound, YardError
from schemas.library import (
    MAX_DESCRIPTION_BYTES,
    AskNode,
    DeleteEntry,
    DescribeEntry,
    EntryDetails,
    FindFile,
    FoundFile,
    FoundFiles,
    LibraryEntry,
    LibraryRef,
    Restored,
    Scanned,
    TrashedEntry,
    TrashEmptied,
    TrashRef,
    node_of,
)
from services.downloader.library import inside, trash
from services.downloader.library.disk_work import on_disk
from services.downloader.library.entries import revision_of
from services.downloader.library.keeper import Keeper, Survey
from services.downloader.library.library import Library
from services.downloader.library.repairing import missing_files
from services.downloader.library.shelf import Model, Shelf, decode_description
from services.downloader.node_commands import NodeCommands

log = logs.get(__name__)

_SHOWN_FILES = 2000
_WRITING_S = 60.0
"""A file that is not all there and was written so lately is still on its way."""


class LibraryCommands:
    """Answers for this node's part of the library."""

    def __init__(self, bus: Bus, tasks: Tasks, library: Library, commands: Commands) -> None:
        self._bus = bus
        self._tasks = tasks
        self._library = library
        self._node_commands = NodeCommands(bus, commands, subjects.LIBRARY_AT_NODE)

    async def start(self) -> None:
        """Answer from now on."""
        add = self._node_commands.add
        await add(subjects.LIBRARY_SHOW, self.show, lambda ref: owner(ref.entry))
        await add(subjects.LIBRARY_DESCRIBE, self.describe, lambda ref: owner(ref.entry))
        await add(subjects.LIBRARY_DELETE, self.delete, lambda ref: owner(ref.entry))
        await add(subjects.LIBRARY_RESTORE, self.restore, lambda ref: owner(ref.item))
        await add(subjects.LIBRARY_PURGE, self.purge, lambda ref: owner(ref.item))
        await add(subjects.LIBRARY_EMPTY, self.empty, lambda asked: only_node(self._library, asked.node))
        await add(subjects.LIBRARY_SCAN, self.scan, lambda asked: only_node(self._library, asked.node))
        await add(subjects.LIBRARY_FIND, self.find_file, lambda asked: asked.node or self._bus.node)

    async def show(self, ref: LibraryRef) -> EntryDetails:
        """An entry with its files."""
        keeper = self._library.keeper_of(ref.entry)
        entry, model = self._library.find(keeper, ref.entry)
        there = self._library.paths(keeper)
        missing = missing_files(model, keeper.shelf.recorded(model.group.folder), there)[:_SHOWN_FILES]
        return EntryDetails(entry=entry, files=tuple(model.files[:_SHOWN_FILES]), missing=tuple(missing))

    async def describe(self, order: DescribeEntry) -> LibraryEntry:
        """Compare the description with what the writer saw, and set it."""
        keeper = self._library.keeper_of(order.entry)
        async with keeper.lock:
            _, model = self._library.find(keeper, order.entry)
            await on_disk(_describe, keeper, model, order)
            await keeper.refresh()
            return self._library.find(keeper, order.entry)[0]

    async def delete(self, order: DeleteEntry) -> TrashedEntry:
        """Into the trash, unless somebody needs it."""
        keeper = self._library.keeper_of(order.entry)
        async with keeper.lock:
            # What came since the last look belongs to the entry as well, or has changed it.
            await keeper.refresh()
            entry, model = self._library.find(keeper, order.entry)
            if not order.force:
                self._library.check_free(entry, model)
                _check_settled(self._library.survey(keeper), model)
            manifest = await on_disk(trash.put, keeper.shelf.root, model)
            await keeper.refresh()
        log.info("entry_deleted", store=entry.store, path=entry.path, bytes=entry.size_bytes)
        self._tell(entry, "deleted")
        return manifest.shown(self._bus.node, keeper.shelf.name)

    async def restore(self, ref: TrashRef) -> Restored:
        """Back to where it was."""
        keeper = self._library.keeper_of(ref.item)
        async with keeper.lock:
            manifest = self._item(keeper, ref.item)
            try:
                await on_disk(trash.restore, keeper.shelf.root, manifest)
            except FileExistsError as error:
                raise Conflict(f"{error} is there again; move or delete it, then restore.") from error
            survey = await keeper.refresh()
        for entry in survey.entries.values() if survey else ():
            if entry.path == manifest.path:
                self._tell(entry, "restored")
        return Restored(path=manifest.path, n_files=len(manifest.files))

    async def purge(self, ref: TrashRef) -> TrashEmptied:
        """One item, for good."""
        keeper = self._library.keeper_of(ref.item)
        async with keeper.lock:
            manifest = self._item(keeper, ref.item)
            await on_disk(trash.purge, keeper.shelf.root, manifest.item)
            await keeper.refresh()
        return TrashEmptied(items=1, size_bytes=manifest.size_bytes)

    async def empty(self, _asked: AskNode) -> TrashEmptied:
        """Every item of every store of this node, for good."""
        emptied = []
        for keeper, _ in list(self._library.surveys()):
            async with keeper.lock:
                await keeper.refresh()
                for manifest in list(self._library.survey(keeper).trashed.values()):
                    await on_disk(trash.purge, keeper.shelf.root, manifest.item)
                    emptied.append(manifest.size_bytes)
                await keeper.refresh()
        return TrashEmptied(items=len(emptied), size_bytes=sum(emptied))

    async def scan(self, _asked: AskNode) -> Scanned:
        """Look at every store of this node now."""
        spaces = []
        for keeper in self._library.keepers.values():
            async with keeper.lock:
                survey = await keeper.refresh()
            if survey is not None:
                spaces.append(survey.space)
        return Scanned(stores=tuple(spaces))

    async def find_file(self, wanted: FindFile) -> FoundFiles:
        """Here; and unless one node was named, everywhere else."""
        found = list(self._found_here(wanted.sha256.lower()))
        if wanted.node is None:
            others = [node for node in self._library.nodes() if node != self._bus.node]
            asked = (self._ask(FindFile(sha256=wanted.sha256, node=node), node) for node in others)
            for answer in await asyncio.gather(*asked):
                found += answer
        return FoundFiles(files=tuple(found))

    async def _ask(self, wanted: FindFile, node: str) -> tuple[FoundFile, ...]:
        try:
            return (await self._node_commands.forward(subjects.LIBRARY_FIND, wanted, node)).files
        except YardError as error:
            log.info("node_not_asked", node=node, error=error.message)
            return ()

    def _found_here(self, sha256: str) -> list[FoundFile]:
        return [
            FoundFile(
                node=self._bus.node,
                store=keeper.shelf.name,
                path=file.path,
                size_bytes=file.size_bytes,
                verified=file.verified,
            )
            for keeper, survey in self._library.surveys()
            for model in survey.look.models
            for file in model.files
            if file.sha256 == sha256
        ]

    def _item(self, keeper: Keeper, key: str) -> trash.Manifest:
        manifest = self._library.survey(keeper).trashed.get(key.rpartition(".")[2])
        if manifest is None:
            raise NotFound(f"There is no {key} in the trash; `yard library trash` shows it.", param="item")
        return manifest

    def _tell(self, entry: LibraryEntry, change: str) -> None:
        event = self._bus.emit(subjects.LIBRARY_CHANGED, entry, entry=entry.entry, change=change)
        self._tasks.spawn(event, f"event entry {change}")


def owner(key: str) -> str:
    """The node that an entry or an item of the trash lies on."""
    try:
        return node_of(key)
    except ValueError as error:
        raise BadRequest(f"{error}.") from error


def only_node(library: Library, node: str | None) -> str:
    """The node that is meant; it must be said where there are several."""
    nodes = library.nodes()
    if node is None and len(nodes) > 1:
        raise BadRequest(f"Say which node is meant: {', '.join(nodes)}.", param="node")
    return node or nodes[0]


def _describe(keeper: Keeper, model: Model, order: DescribeEntry) -> None:
    shelf, path = keeper.shelf, model.group.description_path
    before, after = _description(shelf, path), order.description.strip()
    if order.revision is not None and order.revision != revision_of(before):
        raise Conflict("The description was changed meanwhile; read it again.", param="revision")
    if after == before:
        return
    if after:
        inside.write(shelf.root, path, after.encode() + b"\n")
    else:
        inside.remove(shelf.root, path)


def _description(shelf: Shelf, path: str) -> str:
    """As it is shown; OSError where it cannot be read, for what nobody has seen must not be written over."""
    try:
        return decode_description(inside.read(shelf.root, path, MAX_DESCRIPTION_BYTES))
    except FileNotFoundError:
        return ""


def _check_settled(survey: Survey, model: Model) -> None:
    """Conflict while something is still being written into the folder."""
    folder = model.group.folder
    partials = survey.look.tree.partials if folder else []
    times = [one.modified_ns for one in partials if f"{one.folder}/".startswith(f"{folder}/")]
    newest = max(times, default=0)
    if newest / 1e9 > (survey.space.scanned_at or 0.0) - _WRITING_S:
        raise Conflict(
            f"Files are still being written into {folder}; wait for that or cancel it, or force it."
        )
