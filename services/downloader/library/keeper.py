"""Keeps what is told of one store in step with its folder.

A poll, not inotify: it sees the same on every file system (also on network disks and bind mounts, where
nothing is notified), needs no watch a folder, and a look at an unchanged store is a walk of names and times.
It is taken every 2 s, or so seldom that it costs a twentieth of a processor at most.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.errors import BrokerUnavailable
from schemas.library import LibraryEntry, StoreSpace, TrashedEntry
from services.downloader.library import trash
from services.downloader.library.entries import Uses, entry_of, partial_bytes, used_bytes, users_of
from services.downloader.library.shelf import Look, Model, Shelf

log = logs.get(__name__)
T = TypeVar("T")

LOOK_EVERY_S = 2.0
_SHARE = 20.0
"""A look of 1 s is followed by a pause of so many."""
SPACE_TTL_S = 15
SPACE_EVERY_S = 5.0
_AT_ONCE = 64
_ODD_SHOWN = 3


class Survey(NamedTuple):
    """A store, with what must be told because it is new."""

    look: Look
    models: dict[str, Model]
    entries: dict[str, LibraryEntry]
    trashed: dict[str, trash.Manifest]
    space: StoreSpace


class Keeper:
    """The one writer of one store's entries, trash and space."""

    def __init__(
        self,
        bus: Bus,
        shelf: Shelf,
        uses: Callable[[], Uses],
        told: Mapping[str, LibraryEntry],
        told_trash: Mapping[str, TrashedEntry],
        *,
        default: bool,
    ) -> None:
        self.shelf = shelf
        self.lock = asyncio.Lock()
        """Held by who looks at the store, and by who changes it."""
        self.survey: Survey | None = None
        self._bus = bus
        self._uses = uses
        self._told = dict(told)
        self._told_trash = dict(told_trash)
        self._told_space: tuple[StoreSpace, float] | None = None
        self._default = default
        self._seen_uses: Uses | None = None
        self._wake = asyncio.Event()
        self._library = BucketStore(bus, buckets.LIBRARY)
        self._trash = BucketStore(bus, buckets.TRASH)
        self._spaces = BucketStore(bus, buckets.STORES)

    def wake(self) -> None:
        """Something has changed: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        await asyncio.to_thread(self._recover)
        while True:
            self._wake.clear()
            pause_s = await self._look_safely()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)

    async def _look_safely(self) -> float:
        try:
            async with self.lock:
                return await self._look_and_tell()
        except Exception:
            # One odd file must not make a whole store blind for good.
            log.exception("look_failed", store=self.shelf.name)
            return LOOK_EVERY_S

    async def refresh(self) -> Survey | None:
        """Look now; what is returned is told already. None if the store cannot be read. Needs the lock."""
        await self._look_and_tell()
        return self.survey

    async def _look_and_tell(self) -> float:
        began = time.monotonic()
        try:
            survey = await asyncio.to_thread(self._survey)
        except OSError as error:
            log.warning("store_not_read", store=self.shelf.name, error=str(error))
            self.survey = None
            await self._tell({}, {}, self._unreadable(error))
            return LOOK_EVERY_S
        took_s = time.monotonic() - began
        self.survey = survey
        await self._purge_expired(survey)
        trashed = {
            one.key: one
            for one in (each.shown(self._bus.node, self.shelf.name) for each in survey.trashed.values())
        }
        await self._tell(survey.entries, trashed, survey.space)
        if survey.look.pending:
            return 0.0
        return max(LOOK_EVERY_S, _SHARE * took_s)

    def _recover(self) -> None:
        try:
            trash.recover(self.shelf.root)
        except OSError as error:
            log.warning("trash_not_recovered", store=self.shelf.name, error=str(error))

    def _survey(self) -> Survey:
        """In a thread: everything that takes long in a large store."""
        before, uses = self.survey, self._uses()
        look = self.shelf.look()
        trashed = trash.items(self.shelf.root, before.trashed if before else {})
        if before is not None and look is before.look and uses is self._seen_uses:
            space = self._space(look, trashed, len(before.entries))
            return before._replace(trashed=trashed, space=space)
        self._seen_uses = uses
        models, entries = {}, {}
        for model in look.models:
            entry = entry_of(model, self._bus.node, self.shelf.name, users_of(model, uses))
            models[entry.key], entries[entry.key] = model, entry
        return Survey(look, models, entries, trashed, self._space(look, trashed, len(entries)))

    def _space(self, look: Look, trashed: Mapping[str, trash.Manifest], entries: int) -> StoreSpace:
        total_bytes, free_bytes = self.shelf.room()
        odd = look.tree.odd
        more = f" and {len(odd) - _ODD_SHOWN} more" if len(odd) > _ODD_SHOWN else ""
        return StoreSpace(
            node=self._bus.node,
            store=self.shelf.name,
            path=str(self.shelf.root),
            default=self._default,
            total_bytes=total_bytes,
            free_bytes=free_bytes,
            used_bytes=used_bytes(look),
            partial_bytes=partial_bytes(look),
            trash_bytes=sum(each.size_bytes for each in trashed.values()),
            entries=entries,
            files=len(look.tree.files),
            scanned_at=time.time(),
            scan_s=round(look.took_s, 4),
            problem=f"Passed over: {', '.join(odd[:_ODD_SHOWN])}{more}." if odd else None,
        )

    def _unreadable(self, error: OSError) -> StoreSpace:
        return StoreSpace(
            node=self._bus.node,
            store=self.shelf.name,
            path=str(self.shelf.root),
            default=self._default,
            problem=f"The folder {self.shelf.root} cannot be read: {error.strerror}.",
        )

    async def _purge_expired(self, survey: Survey) -> None:
        for item, manifest in list(survey.trashed.items()):
            if manifest.expires_at > time.time():
                continue
            try:
                await asyncio.to_thread(trash.purge, self.shelf.root, item)
            except OSError as error:
                log.warning("trash_not_emptied", path=manifest.path, error=str(error))
                continue
            log.info("trash_expired", store=self.shelf.name, path=manifest.path)
            del survey.trashed[item]

    async def _tell(
        self, entries: Mapping[str, LibraryEntry], trashed: Mapping[str, TrashedEntry], space: StoreSpace
    ) -> None:
        try:
            await self._tell_changes(self._library, self._told, entries)
            await self._tell_changes(self._trash, self._told_trash, trashed)
            await self._tell_space(space)
        except BrokerUnavailable as error:
            # What was not told differs from what is, and is told at the next look.
            log.warning("library_not_told", error=error.message)

    async def _tell_changes(self, store: BucketStore[T], told: dict[str, T], now: Mapping[str, T]) -> None:
        async def put(key: str, value: T) -> None:
            await store.put(key, value)
            told[key] = value

        async def delete(key: str) -> None:
            await store.delete(key)
            del told[key]

        if told == now:
            return
        changes: list[Coroutine[Any, Any, None]] = []
        for key in told.keys() - now.keys():
            changes.append(delete(key))
        changes += [put(key, value) for key, value in now.items() if told.get(key) != value]
        await _all(changes)

    async def _tell_space(self, space: StoreSpace) -> None:
        """When it has changed in what matters, and often enough to live on."""
        key = f"{space.node}.{space.store}"
        if self._told_space is not None:
            told, at = self._told_space
            if _same(told, space) and time.monotonic() - at < SPACE_EVERY_S:
                return
        await self._spaces.put(key, space, ttl_s=SPACE_TTL_S)
        self._told_space = (space, time.monotonic())


def _same(one: StoreSpace, other: StoreSpace) -> bool:
    return (one.entries, one.used_bytes, one.trash_bytes, one.problem) == (
        other.entries,
        other.used_bytes,
        other.trash_bytes,
        other.problem,
    )


async def _all(changes: list[Coroutine[Any, Any, None]]) -> None:
    """All of them, some at a time; the first error is raised when all have ended."""
    failed: BaseException | None = None
    for start in range(0, len(changes), _AT_ONCE):
        for result in await asyncio.gather(*changes[start : start + _AT_ONCE], return_exceptions=True):
            failed = failed or (result if isinstance(result, BaseException) else None)
    if failed is not None:
        raise failed
