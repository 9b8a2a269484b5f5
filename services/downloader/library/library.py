"""The library of one node: its stores, and the checks before an entry is removed."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import modelyard
from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.downloads import Download
from schemas.errors import BadRequest, Conflict, NotFound
from schemas.instances import LIVE, Instance
from schemas.library import EntryFormat, FindOnNode, ImportCached, LibraryEntry, StoreSpace
from schemas.models import ModelSpec
from services.downloader.library.scanner import FactsReading, StoredModel, StoreScanner
from services.downloader.library.store import LibraryStore, StoreReport, Uses, is_fetching, users_of, uses_of
from services.downloader.peers.client import PeerClient


@dataclass
class NodeLibrary:
    """The stores of this node, and what uses their entries."""

    _bus: Bus
    _settings: Settings
    models: BucketCache[ModelSpec]
    _instances: BucketCache[Instance]
    _spaces: BucketCache[StoreSpace]
    downloads: BucketCache[Download]
    stores: dict[str, LibraryStore] = field(default_factory=dict)
    _uses: Uses = field(default_factory=dict)
    _specs: defaultdict[str, list[ModelSpec]] = field(default_factory=lambda: defaultdict(list))
    """All specs of a name since the start: an instance may outlive its model's record."""

    def __post_init__(self) -> None:
        self.node = self._bus.node
        self.peers = PeerClient(self._bus, self._settings, self.nodes)

    async def start(self, tasks: Tasks) -> None:
        """Start every store, and delete the published entries of removed stores."""
        for key, spec in self.models.values.items():
            self._on_model(key, spec)
        self.models.listen(self._on_model)
        entries = await read_bucket(self._bus, buckets.LIBRARY, f"{self.node}.>")
        trashed = await read_bucket(self._bus, buckets.TRASH, f"{self.node}.>")
        for index, (name, root) in enumerate(self._settings.all_stores.items()):
            scanner = StoreScanner(name, root)
            own = {key: entry for key, entry in entries.items() if entry.store == name}
            _restore_facts(scanner, own)
            self.stores[name] = LibraryStore(
                self._bus,
                scanner,
                lambda: self._uses,
                own,
                {key: item for key, item in trashed.items() if item.store == name},
                index == 0,
            )
        bucket = BucketStore(self._bus, buckets.LIBRARY)
        await asyncio.gather(
            *(bucket.delete(key) for key, entry in entries.items() if entry.store not in self.stores)
        )
        for name, store in self.stores.items():
            tasks.spawn(store.run(), f"store {name}")

    def _on_model(self, _key: str, spec: ModelSpec | None) -> None:
        if spec is not None and spec not in self._specs[spec.name]:
            self._specs[spec.name].append(spec)
        self._uses = uses_of(self.models.values.values())
        self.wake()

    def wake(self) -> None:
        for store in self.stores.values():
            store.wake()

    def nodes(self) -> list[str]:
        """Names of the nodes with a running downloader."""
        return sorted({space.node for space in self._spaces.values.values()} | {self.node})

    def target_node(self, request: FindOnNode | ImportCached) -> str:
        """The requested node, or the only one; BadRequest where there are several."""
        nodes = self.nodes()
        if request.node is None and len(nodes) > 1:
            raise BadRequest(f"Name one of the nodes: {', '.join(nodes)}.", param="node")
        return request.node or nodes[0]

    def store(self, name: str | None) -> LibraryStore:
        """One of this node's stores; None is the one for downloads."""
        store = self.stores.get(name) if name is not None else next(iter(self.stores.values()))
        if store is None:
            names = ", ".join(self.stores)
            raise NotFound(f"Node {self.node} has no store {name!r}; it has {names}.", param="store")
        return store

    def store_of(self, key: str) -> LibraryStore:
        """The store of a key `node.store.…`."""
        return self.store(key.split(".")[1])

    def report(self, store: LibraryStore) -> StoreReport:
        """The last report; NotFound with the reason where the store is unreadable."""
        if store.report is None:
            raise NotFound(f"The store {store.name} on {self.node} cannot be read now.", param="entry")
        return store.report

    def find(self, store: LibraryStore, key: str) -> tuple[LibraryEntry, StoredModel]:
        """An entry and its model; NotFound without one."""
        report = self.report(store)
        entry, model = report.entries.get(key), report.models.get(key)
        if entry is None or model is None:
            raise NotFound(
                f"There is no entry {key} in the library; `yard library` shows them.", param="entry"
            )
        return entry, model

    def paths(self, store: LibraryStore) -> set[str]:
        return {file.path for file in self.report(store).result.tree.files}

    def reports(self) -> Iterator[tuple[LibraryStore, StoreReport]]:
        for store in self.stores.values():
            if store.report is not None:
                yield store, store.report

    def check_unused(self, entry: LibraryEntry, model: StoredModel) -> None:
        """Conflict while an instance on this node, a model or a download uses the entry."""
        for instance in self._instances.values.values():
            runs_here = instance.node == self.node and instance.state in LIVE
            if runs_here and users_of(model, uses_of(self._specs[instance.model])):
                raise Conflict(
                    f"An instance of {instance.model} runs from {entry.path}; stop it first "
                    f"(yard stop {instance.model}), or force it."
                )
        if entry.used_by:
            names = ", ".join(entry.used_by)
            raise Conflict(
                f"{entry.path} is used by {names}; remove that from the registry first "
                f"(yard rm {entry.used_by[0]}), or force it."
            )
        for download in self.downloads.values.values():
            if download.node == self.node and is_fetching(download, model):
                raise Conflict(
                    f"{entry.path} is being downloaded; wait for that, cancel it first "
                    f"(yard downloads cancel {download.download}), or force it."
                )


def _restore_facts(scanner: StoreScanner, entries: dict[str, LibraryEntry]) -> None:
    # Facts that this version has read stay valid while the files are the same.
    for entry in entries.values():
        if entry.read_by == modelyard.__version__ and entry.format is not EntryFormat.LINK:
            scanner.restore_facts(
                entry.path, FactsReading((entry.weights_bytes, entry.modified_at), entry.facts)
            )
