"""Which nodes have a file, by what their libraries tell."""

import time
from typing import NamedTuple

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from schemas import buckets
from schemas.library import EntryFormat, LibraryEntry, StoreSpace, VerifyState, entry_id

FRESH_S = 10.0
"""How long an answer counts."""


class _Known(NamedTuple):
    entries: tuple[LibraryEntry, ...]
    at: float


class Shelves:
    """Looks entries up one by one: a library may be large, and is seldom needed here."""

    def __init__(self, bus: Bus, stores: BucketCache[StoreSpace]) -> None:
        self._bus = bus
        self._stores = stores
        self._library = BucketStore(bus, buckets.LIBRARY)
        self._known: dict[str, _Known] = {}

    def is_there(self, node: str) -> bool:
        """Whether the downloader of a node is at work: without one it neither gives nor takes."""
        return any(store.node == node for store in self._stores.values.values())

    async def with_path(self, path: str) -> tuple[LibraryEntry, ...]:
        """Every entry at `path` that can be given, also of nodes that are away; the surest first."""
        known = self._known.get(path)
        if known is None or time.monotonic() - known.at > FRESH_S:
            known = self._known[path] = _Known(await self._look_up(path), time.monotonic())
        return known.entries

    async def _look_up(self, path: str) -> tuple[LibraryEntry, ...]:
        wildcard = buckets.LIBRARY.subject(f"*.*.{entry_id(path)}")
        info = await self._bus.js.stream_info(buckets.LIBRARY.stream, subjects_filter=wildcard)
        prefix = buckets.LIBRARY.subject("")
        found = [
            await self._library.get(subject.removeprefix(prefix)) for subject in info.state.subjects or ()
        ]
        good = [entry for entry in found if entry is not None and _is_good(entry)]
        return tuple(sorted(good, key=lambda one: (one.verified is not VerifyState.VERIFIED, one.key)))


def _is_good(entry: LibraryEntry) -> bool:
    return entry.format is not EntryFormat.LINK and entry.verified is not VerifyState.DAMAGED
