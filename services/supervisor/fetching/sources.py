"""Where the files of a model are: in the libraries of other nodes, and on the hub."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import Format
from schemas.errors import BrokerUnavailable, DeadlineExceeded, ServiceUnavailable, YardError
from schemas.hub import Fit, GetOffer, Offer, OfferedChoice
from schemas.library import EntryFormat, LibraryEntry, StoreSpace, VerifyState, entry_id
from schemas.models import ModelSource, ModelSpec
from schemas.placement import MemoryNeed, Option

LIBRARY_TTL_S = 10.0
"""How long the entries at a path are cached."""
OFFER_TTL_S = 60.0
"""How long the hub's answer is cached, a refusal too."""
OFFER_TIMEOUT_S = 8.0
"""How long a preview waits for the hub."""
TRANSIENT_RETRY_S = 3.0
"""After a transient error the hub is queried again."""
TRANSIENT = (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable)
"""Errors of a service that starts, or is away for a moment."""


class _CachedEntries(NamedTuple):
    entries: tuple[LibraryEntry, ...]
    at: float


class LibraryIndex:
    """Entries by path, read one by one: a library may be large, and is seldom needed here."""

    def __init__(self, bus: Bus, stores: BucketCache[StoreSpace]) -> None:
        self._bus = bus
        self._stores = stores
        self._library = BucketStore(bus, buckets.LIBRARY)
        self._cache: dict[str, _CachedEntries] = {}

    def is_online(self, node: str) -> bool:
        """Whether the downloader of a node runs: without one it neither sends nor receives files."""
        return any(store.node == node for store in self._stores.values.values())

    async def entries_at(self, path: str) -> tuple[LibraryEntry, ...]:
        """Every usable entry at `path`, also of nodes that are offline; verified ones first."""
        cached = self._cache.get(path)
        if cached is None or time.monotonic() - cached.at > LIBRARY_TTL_S:
            cached = self._cache[path] = _CachedEntries(await self._read(path), time.monotonic())
        return cached.entries

    async def _read(self, path: str) -> tuple[LibraryEntry, ...]:
        wildcard = buckets.LIBRARY.subject(f"*.*.{entry_id(path)}")
        info = await self._bus.js.stream_info(buckets.LIBRARY.stream, subjects_filter=wildcard)
        prefix = buckets.LIBRARY.subject("")
        keys = [subject.removeprefix(prefix) for subject in info.state.subjects or ()]
        entries = [await self._library.get(key) for key in keys]
        usable = [entry for entry in entries if entry is not None and _is_usable(entry)]
        usable.sort(key=lambda entry: (entry.verified is not VerifyState.VERIFIED, entry.key))
        return tuple(usable)


def _is_usable(entry: LibraryEntry) -> bool:
    return entry.format is not EntryFormat.LINK and entry.verified is not VerifyState.DAMAGED


class HubOptions(NamedTuple):
    """Where the hub's files of a model would fit."""

    options: Mapping[str, Option] = {}
    """By node; of a node without option and without refusal nothing is known."""
    refusals: Mapping[str, str] = {}
    """Why it does not fit on the other nodes."""
    size_bytes: int | None = None
    problem: str | None = None
    is_transient: bool = False
    """The problem is that no service answers just now."""


class HubOffers:
    """Queries the hub in the background: it may take a while."""

    def __init__(self, bus: Bus, tasks: Tasks, on_answer: Callable[[], None]) -> None:
        self._bus = bus
        self._tasks = tasks
        self._on_answer = on_answer
        self._cache: dict[tuple[str, str], tuple[HubOptions, float]] = {}
        self._pending: dict[tuple[str, str], asyncio.Task[None]] = {}

    def options(self, spec: ModelSpec, source: ModelSource) -> HubOptions | None:
        """Where it would fit; None while the query runs."""
        key = spec.path, source.revision
        options, at = self._cache.get(key, (None, 0.0))
        if options is not None:
            ttl_s = TRANSIENT_RETRY_S if options.is_transient else OFFER_TTL_S
            if time.monotonic() - at < ttl_s:
                return options
        if key not in self._pending:
            self._pending[key] = self._tasks.spawn(self._query(spec, source), f"offer of {source.repo}")
        return None

    async def wait_for_answer(self, spec: ModelSpec, source: ModelSource) -> None:
        """Wait until the query has ended, for some seconds."""
        if task := self._pending.get((spec.path, source.revision)):
            await asyncio.wait({task}, timeout=OFFER_TIMEOUT_S)

    async def _query(self, spec: ModelSpec, source: ModelSource) -> None:
        key = spec.path, source.revision
        request = GetOffer(reference=f"{source.repo}@{source.revision}", n_ctx=spec.n_ctx)
        try:
            options = read_offer(await self._bus.call(subjects.HUB_OFFER, request), spec.path)
        except YardError as error:
            options = _not_found(error.message, is_transient=isinstance(error, TRANSIENT))
        finally:
            self._pending.pop(key, None)
        self._cache[key] = options, time.monotonic()
        self._on_answer()


def read_offer(offer: Offer, path: str) -> HubOptions:
    """The nodes on which the model at `path` would fit."""
    choice = next((choice for choice in offer.choices if _is_at(choice, offer.repo, path)), None)
    if choice is None:
        return _not_found(offer.problem or f"{offer.repo} has no {path.removeprefix(f'{offer.repo}/')}.")
    return HubOptions(
        options={fit.node: _option(fit) for fit in choice.fits if fit.devices},
        refusals={fit.node: f"it {fit.sentence.rstrip('.')}" for fit in choice.fits if not fit.devices},
        size_bytes=choice.size_bytes,
    )


def _not_found(problem: str, *, is_transient: bool = False) -> HubOptions:
    sentence = f"its files could not be found on the hub: {problem.rstrip('.')}"
    return HubOptions(problem=sentence, is_transient=is_transient)


def _option(fit: Fit) -> Option:
    """Without needs for several devices: the share of each is known once the node has the files."""
    is_single = len(fit.devices) == 1 and fit.needs_bytes is not None
    needs = (MemoryNeed(device=fit.devices[0], memory_bytes=fit.needs_bytes or 0),) if is_single else ()
    return Option(node=fit.node, devices=fit.devices, needs=needs)


def _is_at(choice: OfferedChoice, repo: str, path: str) -> bool:
    if path == repo:
        return choice.format is Format.SAFETENSORS
    return any(f"{repo}/{file.path}" == path for file in choice.files)
