"""The library of one node: its stores, kept and answered for."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator

import modelyard
from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.downloads import Download
from schemas.errors import Conflict, NotFound
from schemas.instances import LIVE, Instance
from schemas.library import EntryFormat, LibraryEntry, StoreSpace
from schemas.models import ModelSpec
from services.downloader.library.entries import Uses, brings, users_of, uses_of
from services.downloader.library.keeper import Keeper, Survey
from services.downloader.library.shelf import Model, Reading, Shelf
from services.downloader.peers.client import PeerClient


class Library:
    """Finds what lies here, and says who needs it."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        models: BucketCache[ModelSpec],
        instances: BucketCache[Instance],
        spaces: BucketCache[StoreSpace],
        downloads: BucketCache[Download],
    ) -> None:
        self.node = bus.node
        self.keepers: dict[str, Keeper] = {}
        self.finder = PeerClient(bus, settings, self.nodes)
        """Asks the other nodes for files."""
        self._bus = bus
        self._settings = settings
        self._models = models
        self._instances = instances
        self._spaces = spaces
        self._downloads = downloads
        self._uses: Uses = {}
        self._named: defaultdict[str, list[ModelSpec]] = defaultdict(list)
        """Every spec a name has stood for since we look: an instance may outlive its model's record."""

    async def start(self, tasks: Tasks) -> None:
        """Begin to keep every store; what is told of stores that are no more is taken back."""
        for key, spec in self._models.values.items():
            self._on_model(key, spec)
        self._models.listen(self._on_model)
        entries = await read_bucket(self._bus, buckets.LIBRARY, f"{self.node}.>")
        trashed = await read_bucket(self._bus, buckets.TRASH, f"{self.node}.>")
        for index, (name, root) in enumerate(self._settings.all_stores.items()):
            shelf = Shelf(name, root)
            own = {key: entry for key, entry in entries.items() if entry.store == name}
            _remember(shelf, own)
            self.keepers[name] = Keeper(
                self._bus,
                shelf,
                lambda: self._uses,
                own,
                {key: one for key, one in trashed.items() if one.store == name},
                default=index == 0,
            )
        await self._take_back([key for key, entry in entries.items() if entry.store not in self.keepers])
        for name, keeper in self.keepers.items():
            tasks.spawn(keeper.run(), f"store {name}")

    async def _take_back(self, keys: list[str]) -> None:
        store = BucketStore(self._bus, buckets.LIBRARY)
        await asyncio.gather(*(store.delete(key) for key in keys))

    def _on_model(self, _key: str, spec: ModelSpec | None) -> None:
        if spec is not None and spec not in self._named[spec.name]:
            self._named[spec.name].append(spec)
        self._uses = uses_of(self._models.values.values())
        for keeper in self.keepers.values():
            keeper.wake()

    def wake(self) -> None:
        """Files came or went: look now."""
        for keeper in self.keepers.values():
            keeper.wake()

    def nodes(self) -> list[str]:
        """The nodes whose downloaders are there, by name."""
        return sorted({space.node for space in self._spaces.values.values()} | {self.node})

    def keeper(self, store: str | None) -> Keeper:
        """One of this node's stores; None is the one that downloads go to."""
        found = self.keepers.get(store) if store is not None else next(iter(self.keepers.values()))
        if found is None:
            names = ", ".join(self.keepers)
            raise NotFound(f"Node {self.node} has no store {store!r}; it has {names}.", param="store")
        return found

    def keeper_of(self, key: str) -> Keeper:
        """The store in a key `node.store.…`."""
        return self.keeper(key.split(".")[1])

    def survey(self, keeper: Keeper) -> Survey:
        """What the last look found; NotFound with the reason where the store cannot be read."""
        if keeper.survey is None:
            raise NotFound(f"The store {keeper.shelf.name} on {self.node} cannot be read now.", param="entry")
        return keeper.survey

    def find(self, keeper: Keeper, key: str) -> tuple[LibraryEntry, Model]:
        """An entry and what lies behind it."""
        survey = self.survey(keeper)
        entry, model = survey.entries.get(key), survey.models.get(key)
        if entry is None or model is None:
            raise NotFound(
                f"There is no entry {key} in the library; `yard library` shows them.", param="entry"
            )
        return entry, model

    def paths(self, keeper: Keeper) -> set[str]:
        """Every file that lies in a store."""
        return {file.path for file in self.survey(keeper).look.tree.files}

    def surveys(self) -> Iterator[tuple[Keeper, Survey]]:
        """Every store that can be read."""
        for keeper in self.keepers.values():
            if keeper.survey is not None:
                yield keeper, keeper.survey

    def check_free(self, entry: LibraryEntry, model: Model) -> None:
        """Conflict while an instance here runs from an entry, a model needs it, or a download brings it."""
        running = [
            one for one in self._instances.values.values() if one.node == self.node and one.state in LIVE
        ]
        for instance in running:
            if users_of(model, uses_of(self._named[instance.model])):
                raise Conflict(
                    f"An instance of {instance.model} runs from {entry.path}; stop it first "
                    f"(yard stop {instance.model}), or force it."
                )
        if entry.used_by:
            names = ", ".join(entry.used_by)
            raise Conflict(
                f"{entry.path} is needed by {names}; take that out of the registry first "
                f"(yard rm {entry.used_by[0]}), or force it."
            )
        for download in self._downloads.values.values():
            if download.node == self.node and brings(download, model):
                raise Conflict(
                    f"{entry.path} is being downloaded; wait for that, cancel it first "
                    f"(yard downloads cancel {download.download}), or force it."
                )


def _remember(shelf: Shelf, entries: dict[str, LibraryEntry]) -> None:
    """What this version has read before need not be read again while the files are the same."""
    for entry in entries.values():
        if entry.read_by == modelyard.__version__ and entry.format is not EntryFormat.LINK:
            shelf.remember(entry.path, Reading((entry.weights_bytes, entry.modified_at), entry.facts))
