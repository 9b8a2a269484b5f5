"""Files of models that wait, brought where they could run: what could be, what is, and what failed."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
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
from schemas.placing import NodeOptions, OnBehalfOf, Option
from services.supervisor.fetching.hub import AGAIN_S, PASSING, Hub
from services.supervisor.fetching.orders import Order, copy_order, hub_order
from services.supervisor.fetching.progress import RETRY_S, Progress, deleted, progress, works
from services.supervisor.fetching.shelves import Shelves
from services.supervisor.planning.text import names
from services.supervisor.planning.world import Fetch, FetchModel
from services.supervisor.scheduling.asking import Nodes

log = logs.get(__name__)
T = TypeVar("T")

AWAY_S = 60.0
"""A node that has the files and is away is waited for so long, before they are downloaded anew."""
_SHOWS_S = 5.0
THE_HUB = "the hub"


class Fetches(NamedTuple):
    """What the plan has to know, by model."""

    ways: dict[str, tuple[Fetch, ...]]
    under_way: dict[str, str]
    failed: dict[str, str]


class _Found(NamedTuple):
    """Of one model and one node: ways there, or how it stands."""

    fetches: tuple[Fetch, ...] = ()
    progress: Progress | None = None


class Fetching:
    """Looks where a model's files are, and has them brought to another node."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        nodes: Nodes,
        stores: BucketCache[StoreSpace],
        jobs: BucketCache[LibraryJob],
        downloads: BucketCache[Download],
        trash: BucketCache[TrashedEntry],
    ) -> None:
        self._bus = bus
        self._tasks = tasks
        self._nodes = nodes
        self._jobs = jobs
        self._downloads = downloads
        self._trash = trash
        self._shelves = Shelves(bus, stores)
        self._hub = Hub(bus, tasks, self._tell)
        self._listeners: list[Callable[[], None]] = []
        self._orders: dict[FetchModel, Order] = {}
        """What would be ordered."""
        self._ordering: set[FetchModel] = set()
        self._refused: dict[FetchModel, tuple[YardError, float]] = {}
        self._away_since: dict[str, float] = {}

    @classmethod
    async def start(cls, bus: Bus, tasks: Tasks, nodes: Nodes) -> "Fetching":
        return cls(
            bus,
            tasks,
            nodes,
            await BucketCache.start(bus, buckets.STORES, tasks),
            await BucketCache.start(bus, buckets.JOBS, tasks),
            await BucketCache.start(bus, buckets.DOWNLOADS, tasks),
            await BucketCache.start(bus, buckets.TRASH, tasks),
        )

    def listen(self, *, on_news: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Call `on_end` when a copy or a download has ended, `on_news` when an answer has come."""
        self._listeners.append(on_news)

        def on_job(_key: str, job: LibraryJob | None) -> None:
            if job is not None and job.state in JOB_ENDED:
                on_end()

        def on_download(_key: str, download: Download | None) -> None:
            if download is not None and download.state in ENDED:
                on_end()

        self._jobs.listen(on_job)
        self._downloads.listen(on_download)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    async def look(
        self,
        specs: Iterable[ModelSpec],
        wished_at: Mapping[str, float],
        *,
        patient_for: str | None = None,
    ) -> Fetches:
        """For each of these models that some node lacks the files of: how they could come there.

        `wished_at`: when a person asked for a start. `patient_for`: a model of which somebody wants to know;
        for it the hub's answer is waited for.
        """
        made, specs = Fetches({}, {}, {}), list(specs)
        looked_for = {spec.name for spec in specs}
        self._away_since = {name: at for name, at in self._away_since.items() if name in looked_for}
        for spec in specs:
            lacking = self._nodes.lacking(spec.name)
            found = [
                await self._found(
                    spec, node, said, wished_at.get(spec.name), patient=spec.name == patient_for
                )
                for node, said in sorted(lacking.items())
                if self._shelves.is_there(node)
            ]
            made.ways[spec.name] = tuple(way for one in found for way in one.fetches)
            for one in found:
                if one.progress is not None:
                    texts = made.failed if one.progress.failed else made.under_way
                    texts.setdefault(spec.name, one.progress.text)
        return made

    async def _found(
        self,
        spec: ModelSpec,
        node: str,
        said: NodeOptions,
        wished_at: float | None,
        *,
        patient: bool,
    ) -> _Found:
        fetch = FetchModel(model=spec.name, node=node)
        if (standing := self._standing(spec, fetch, said.missing, wished_at)) is not None:
            return _Found(progress=standing)
        entries = [await self._shelves.with_path(path) for path in said.missing]
        there = [[one for one in found if self._gives(one, node)] for found in entries]
        if (copy := copy_order(spec, said.missing, there, node)) is not None:
            self._orders[fetch] = copy
            return await self._copies(spec, copy, said, there)
        away = sorted(
            {one.node for found in entries for one in found if not self._shelves.is_there(one.node)}
        )
        if patient and spec.source is not None and self._hub.ways(spec, spec.source) is None:
            await self._hub.answered(spec, spec.source)
        return self._downloads_of(spec, fetch, said, away)

    def _gives(self, entry: LibraryEntry, node: str) -> bool:
        return entry.node != node and self._shelves.is_there(entry.node)

    def _standing(
        self, spec: ModelSpec, fetch: FetchModel, missing: tuple[str, ...], wished_at: float | None
    ) -> Progress | None:
        """What was ordered already, and how that goes."""
        if fetch in self._ordering:
            return Progress(f"its files are being asked for by {fetch.node}")
        now = time.time()
        if fetch in self._refused:
            error, at = self._refused[fetch]
            passes = isinstance(error, PASSING)
            if now - at < (AGAIN_S if passes else RETRY_S) and (wished_at or 0.0) < at:
                problem = f"its files could not be brought to {fetch.node}: {error.message.rstrip('.')}"
                return Progress(problem, failed=not passes)
        jobs, downloads = self._jobs.values.values(), self._downloads.values.values()
        done = works(spec.name, missing, fetch.node, jobs, downloads)
        trashed = self._trash.values.values()
        return progress(done, fetch.node, now, wished_at) or deleted(trashed, missing, fetch.node, wished_at)

    async def _copies(
        self, spec: ModelSpec, copy: CopyEntry, said: NodeOptions, there: list[list[LibraryEntry]]
    ) -> _Found:
        giver, node = node_of(copy.entry), self._nodes.get(copy.node)
        if node is None:
            return _Found()
        stand_in = OnBehalfOf(node=node.node, engine=said.engine or "", devices=node.devices)
        by_files = (
            await self._nodes.instead(giver, spec.name, stand_in) if spec.path in said.missing else said
        )
        if by_files.problem is not None and by_files is not said:
            return _Found(progress=Progress(by_files.problem.rstrip("."), failed=True))
        sizes = {found[0].key: found[0].size_bytes for found in there if found}
        size = format_size(sum(sizes.values()))
        return _Found(tuple(Fetch(option=one, source=giver, size=size) for one in by_files.options))

    def _downloads_of(self, spec: ModelSpec, fetch: FetchModel, said: NodeOptions, away: list[str]) -> _Found:
        order = hub_order(spec, said.missing, fetch.node)
        if order is None or spec.source is None:
            what = f"its files are on {names(away)}, which is away"
            return _Found(progress=Progress(what, failed=True) if away else None)
        if away and (left_s := self._patience_s(spec.name)) > 0:
            text = f"its files are on {names(away)}, which is away; in {left_s:.0f} s they are downloaded"
            return _Found(progress=Progress(text))
        ways = self._hub.ways(spec, spec.source)
        if ways is None:
            return _Found(progress=Progress("the hub is asked for its files"))
        if ways.problem is not None:
            return _Found(progress=Progress(ways.problem, failed=not ways.passes))
        if (refusal := ways.refusals.get(fetch.node)) is not None:
            return _Found(progress=Progress(refusal, failed=True))
        self._orders[fetch] = order
        option = ways.options.get(fetch.node, Option(node=fetch.node))
        return _Found((Fetch(option=option, source=THE_HUB, size=format_size(ways.size_bytes)),))

    def _patience_s(self, model: str) -> float:
        """How long the nodes that have a model's files are still waited for."""
        since = self._away_since.setdefault(model, time.monotonic())
        return AWAY_S - (time.monotonic() - since)

    def order(self, fetch: FetchModel) -> None:
        """Have it done; how it goes shows at the next look."""
        if fetch not in self._ordering:
            self._ordering.add(fetch)
            self._tasks.spawn(self._order(fetch), f"fetch {fetch.model}")

    async def _order(self, fetch: FetchModel) -> None:
        order = self._orders[fetch]
        log.info("files_are_fetched", model=fetch.model, node=fetch.node, order=msgspec.to_builtins(order))
        try:
            await self._send(order)
            self._refused.pop(fetch, None)
        except YardError as error:
            log.warning("fetch_refused", model=fetch.model, node=fetch.node, error=error.message)
            self._refused[fetch] = error, time.time()
        finally:
            self._ordering.discard(fetch)
            self._tell()

    async def _send(self, order: Order) -> None:
        """Returns when the work shows, so that no second look orders it again."""
        if isinstance(order, CopyEntry):
            job = await self._bus.call(subjects.LIBRARY_COPY, order)
            await _shows(self._jobs, job.job)
        else:
            download = await self._bus.call(subjects.DOWNLOAD_START, order)
            await _shows(self._downloads, download.download)


async def _shows(mirror: BucketCache[T], key: str) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(mirror.until(lambda values: key in values), _SHOWS_S)
