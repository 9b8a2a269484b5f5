"""The files of waiting models: how they could be fetched to other nodes, and the fetches ordered."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.text import format_size
from schemas import buckets, subjects
from schemas.downloads import ENDED, Download
from schemas.errors import YardError
from schemas.library import JOB_ENDED, CopyEntry, LibraryEntry, LibraryJob, StoreSpace, TrashedEntry, node_of
from schemas.models import ModelSpec
from schemas.placement import NodeOptions, OnBehalfOf, Option
from services.supervisor.fetching.sources import TRANSIENT, TRANSIENT_RETRY_S, HubOffers, LibraryIndex
from services.supervisor.fetching.transfers import (
    RETRY_S,
    FetchProgress,
    TransferOrder,
    copy_order,
    failed_fetch,
    fetch_progress,
    hub_order,
    transfers_to,
    trashed_files,
)
from services.supervisor.planning.world import FetchOption, PlannedFetch, join_names
from services.supervisor.scheduler.node_client import NodeClient

log = logs.get(__name__)
T = TypeVar("T")

OFFLINE_GRACE_S = 60.0
"""Files on a node that is offline are downloaded again only after so long."""
_VISIBLE_S = 5.0
THE_HUB = "the hub"


class Fetches(NamedTuple):
    """What the plan needs, by model, and the orders that carry its fetches out."""

    options: dict[str, tuple[FetchOption, ...]]
    running: dict[str, str]
    failed: dict[str, str]
    orders: dict[PlannedFetch, TransferOrder]


class _NodeFetch(NamedTuple):
    """The options of a node that lacks files of a model, or the progress of their fetch."""

    options: tuple[FetchOption, ...] = ()
    progress: FetchProgress | None = None
    order: TransferOrder | None = None


class _Lacking(NamedTuple):
    """A model and a node that lacks files of it."""

    spec: ModelSpec
    node: str
    answer: NodeOptions
    requested_at: float | None


class LibraryState(NamedTuple):
    """The buckets of the downloaders that fetching follows."""

    stores: BucketCache[StoreSpace]
    jobs: BucketCache[LibraryJob]
    downloads: BucketCache[Download]
    trash: BucketCache[TrashedEntry]

    @classmethod
    async def start(cls, bus: Bus, tasks: Tasks) -> "LibraryState":
        return cls(
            await BucketCache.start(bus, buckets.STORES, tasks),
            await BucketCache.start(bus, buckets.JOBS, tasks),
            await BucketCache.start(bus, buckets.DOWNLOADS, tasks),
            await BucketCache.start(bus, buckets.TRASH, tasks),
        )


class ModelFetcher:
    """Finds the files of models, and orders copies and downloads."""

    def __init__(self, bus: Bus, tasks: Tasks, nodes: NodeClient, library: LibraryState) -> None:
        self._bus = bus
        self._tasks = tasks
        self._nodes = nodes
        self._state = library
        self._index = LibraryIndex(bus, library.stores)
        self._hub = HubOffers(bus, tasks, self._notify)
        self._listeners: list[Callable[[], None]] = []
        self._ordering: set[PlannedFetch] = set()
        self._refused: dict[PlannedFetch, tuple[YardError, float]] = {}
        self._offline_since: dict[str, float] = {}
        """Since when the nodes with a model's files are offline, monotonic."""

    def listen(self, *, on_update: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Call `on_end` when a copy or a download has ended, `on_update` when an answer has come."""
        self._listeners.append(on_update)

        def on_job(_key: str, job: LibraryJob | None) -> None:
            if job is not None and job.state in JOB_ENDED:
                on_end()

        def on_download(_key: str, download: Download | None) -> None:
            if download is not None and download.state in ENDED:
                on_end()

        self._state.jobs.listen(on_job)
        self._state.downloads.listen(on_download)

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    async def scan(
        self, specs: list[ModelSpec], requested_at: Mapping[str, float], *, preview: str | None = None
    ) -> Fetches:
        """How the files of these models could be fetched to nodes that lack them.

        `requested_at`: the times of start commands. `preview`: the model of a preview, which waits for the
        hub's answer and changes nothing.
        """
        if preview is None:
            names = {spec.name for spec in specs}
            self._offline_since = {name: at for name, at in self._offline_since.items() if name in names}
        fetches = Fetches({}, {}, {}, {})
        for spec in specs:
            options: list[FetchOption] = []
            for node, answer in sorted(self._nodes.lacking_files(spec.name).items()):
                if not self._index.is_online(node):
                    continue
                lacking = _Lacking(spec, node, answer, requested_at.get(spec.name))
                result = await self._scan_node(lacking, preview)
                options += result.options
                if result.order is not None:
                    fetches.orders[PlannedFetch(model=spec.name, node=node)] = result.order
                if result.progress is not None:
                    texts = fetches.failed if result.progress.failed else fetches.running
                    texts.setdefault(spec.name, result.progress.text)
            fetches.options[spec.name] = tuple(options)
        return fetches

    async def _scan_node(self, lacking: _Lacking, preview: str | None) -> _NodeFetch:
        spec, missing = lacking.spec, lacking.answer.missing
        if (progress := self._progress(lacking)) is not None:
            return _NodeFetch(progress=progress)
        entries = [await self._index.entries_at(path) for path in missing]
        online = [
            [entry for entry in at_path if entry.node != lacking.node and self._index.is_online(entry.node)]
            for at_path in entries
        ]
        if (copy := copy_order(spec, missing, online, lacking.node)) is not None:
            return await self._copy_options(lacking, copy, online)
        offline = sorted(
            {e.node for at_path in entries for e in at_path if not self._index.is_online(e.node)}
        )
        if spec.name == preview and spec.source is not None and self._hub.options(spec, spec.source) is None:
            await self._hub.wait_for_answer(spec, spec.source)
        return self._download_options(lacking, offline, is_preview=preview is not None)

    def _progress(self, lacking: _Lacking) -> FetchProgress | None:
        """What was ordered already, and its progress."""
        node, requested_at, now = lacking.node, lacking.requested_at, time.time()
        fetch = PlannedFetch(model=lacking.spec.name, node=node)
        if fetch in self._ordering:
            return FetchProgress(f"its files are being requested for {node}")
        if fetch in self._refused:
            error, at = self._refused[fetch]
            is_transient = isinstance(error, TRANSIENT)
            retry_s = TRANSIENT_RETRY_S if is_transient else RETRY_S
            if now - at < retry_s and (requested_at or 0.0) < at:
                return failed_fetch(node, error.message, failed=not is_transient)
        missing = lacking.answer.missing
        jobs, downloads = self._state.jobs.values.values(), self._state.downloads.values.values()
        transfers = transfers_to(node, lacking.spec.name, missing, jobs, downloads)
        trashed = self._state.trash.values.values()
        progress = fetch_progress(transfers, node, now, requested_at)
        return progress or trashed_files(trashed, missing, node, requested_at)

    async def _copy_options(
        self, lacking: _Lacking, copy: CopyEntry, entries: list[list[LibraryEntry]]
    ) -> _NodeFetch:
        source, node, answer = node_of(copy.entry), self._nodes.get(copy.node), lacking.answer
        if node is None:
            return _NodeFetch()
        if lacking.spec.path in answer.missing:
            target = OnBehalfOf(node=node.node, engine=answer.engine or "", devices=node.devices)
            answer = await self._nodes.options_on_behalf_of(target, source, lacking.spec.name)
            if answer.problem is not None:
                return _NodeFetch(progress=FetchProgress(answer.problem.rstrip("."), failed=True))
        sizes = {at_path[0].key: at_path[0].size_bytes for at_path in entries if at_path}
        size = format_size(sum(sizes.values()))
        options = tuple(FetchOption(option=option, source=source, size=size) for option in answer.options)
        return _NodeFetch(options, order=copy)

    def _download_options(self, lacking: _Lacking, offline: list[str], *, is_preview: bool) -> _NodeFetch:
        spec, node = lacking.spec, lacking.node
        order = hub_order(spec, lacking.answer.missing, node)
        where = f"its files are on {join_names(offline)}, which is away"
        if order is None or spec.source is None:
            return _NodeFetch(progress=FetchProgress(where, failed=True) if offline else None)
        if offline and (left_s := self._grace_left_s(spec.name, is_preview=is_preview)) > 0:
            return _NodeFetch(progress=FetchProgress(f"{where}; in {left_s:.0f} s they are downloaded"))
        offer = self._hub.options(spec, spec.source)
        if offer is None:
            return _NodeFetch(progress=FetchProgress("the hub is being queried for its files"))
        if offer.problem is not None:
            return _NodeFetch(progress=FetchProgress(offer.problem, failed=not offer.is_transient))
        if (refusal := offer.refusals.get(node)) is not None:
            return _NodeFetch(progress=FetchProgress(refusal, failed=True))
        option = offer.options.get(node, Option(node=node))
        size = format_size(offer.size_bytes)
        return _NodeFetch((FetchOption(option=option, source=THE_HUB, size=size),), order=order)

    def _grace_left_s(self, model: str, *, is_preview: bool) -> float:
        now = time.monotonic()
        since = self._offline_since.get(model, now)
        if not is_preview:
            self._offline_since[model] = since
        return OFFLINE_GRACE_S - (now - since)

    def order(self, fetch: PlannedFetch, order: TransferOrder) -> None:
        """Order it; its progress shows in the next scan."""
        if fetch not in self._ordering:
            self._ordering.add(fetch)
            self._tasks.spawn(self._order(fetch, order), f"fetch {fetch.model}")

    async def _order(self, fetch: PlannedFetch, order: TransferOrder) -> None:
        log.info("fetch_ordered", model=fetch.model, node=fetch.node, order=msgspec.to_builtins(order))
        try:
            await self._send(order)
            self._refused.pop(fetch, None)
        except YardError as error:
            log.warning("fetch_refused", model=fetch.model, node=fetch.node, error=error.message)
            self._refused[fetch] = error, time.time()
        finally:
            self._ordering.discard(fetch)
            self._notify()

    async def _send(self, order: TransferOrder) -> None:
        """Returns when the transfer shows, so that no second scan orders it again."""
        if isinstance(order, CopyEntry):
            job = await self._bus.call(subjects.LIBRARY_COPY, order)
            await _wait_visible(self._state.jobs, job.job)
        else:
            download = await self._bus.call(subjects.DOWNLOAD_START, order)
            await _wait_visible(self._state.downloads, download.download)


async def _wait_visible(cache: BucketCache[T], key: str) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(cache.until(lambda values: key in values), _VISIBLE_S)
