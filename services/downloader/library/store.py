"""Publishes one store's entries, trash and space, in step with its folder.

A poll, not inotify: it works on every file system (network disks and bind mounts deliver no events) and needs
no watch a folder, and a scan of an unchanged store is a walk of names and times. It runs every 2 s, or less
often so that it takes at most a twentieth of a processor.
"""

import asyncio
import contextlib
import hashlib
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec

import modelyard
from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.text import format_size
from schemas import buckets
from schemas.downloads import Download, DownloadState
from schemas.errors import BrokerUnavailable
from schemas.library import (
    EntryFacts,
    EntryFormat,
    LibraryEntry,
    StoreSpace,
    TrashedEntry,
    VerifyState,
    entry_id,
)
from schemas.models import ModelSource, ModelSpec
from services.downloader.library import records, trash
from services.downloader.library.grouping import shown_name
from services.downloader.library.scanner import ScanResult, StoredModel, StoreScanner
from services.downloader.reference import parse_reference

_SHOWN_DAMAGED = 20
Uses = Mapping[str, tuple[str, ...]]
"""Names of the models that use a file or folder, by its path in the store."""


def revision_of(description: str) -> str:
    """A revision of the description; empty for none."""
    return hashlib.sha256(description.encode()).hexdigest()[:16] if description else ""


def uses_of(specs: Iterable[ModelSpec]) -> Uses:
    """The uses of every path that these models name."""
    uses: defaultdict[str, list[str]] = defaultdict(list)
    for spec in specs:
        lora_paths = [lora.path for lora in spec.loras]
        for path in {spec.path, spec.mmproj, spec.chat_template, *lora_paths}:
            if path:
                uses[path].append(spec.name)
    return {path: tuple(sorted(names)) for path, names in uses.items()}


def users_of(model: StoredModel, uses: Uses) -> tuple[str, ...]:
    """Names of models that use a file of this one, or its folder."""
    group = model.group
    places = [group.path, *(file.path for file in group.files)]
    if group.format in (EntryFormat.SAFETENSORS, EntryFormat.OTHER) and group.folder:
        places.append(group.folder)
    return tuple(sorted({name for place in places for name in uses.get(place, ())}))


def is_fetching(download: Download, model: StoredModel) -> bool:
    """Whether a running download fetches files of this model."""
    if download.state is not DownloadState.TRANSFERRING:
        return False
    repo = parse_reference(download.reference).repo
    paths = {f"{repo}/{path}" for path in download.files}
    return any(file.path in paths for file in model.group.files)


def entry_of(model: StoredModel, node: str, store: str, users: tuple[str, ...]) -> LibraryEntry:
    group, reading = model.group, model.reading
    checked = model.checked_files
    downloaded = [record.downloaded_at for record in model.record.values() if record.downloaded_at]
    times = [file.verified_at for file in checked if file.verified_at is not None]
    return LibraryEntry(
        node=node,
        store=store,
        entry=entry_id(group.path),
        path=group.path,
        name=shown_name(group),
        format=group.format,
        size_bytes=group.size_bytes,
        size=format_size(group.size_bytes),
        weights_bytes=group.weights_bytes,
        n_files=len(group.files),
        modified_at=group.modified_ns / 1e9,
        downloaded_at=max(downloaded, default=None),
        facts=reading.facts if reading else EntryFacts(),
        mmproj=group.mmproj,
        source=_source(model),
        used_by=users,
        verified=records.worst(checked),
        verified_at=min(times, default=None) if len(times) == len(checked) else None,
        damaged=tuple(file.path for file in checked if file.verified is VerifyState.DAMAGED)[:_SHOWN_DAMAGED],
        description=model.description,
        description_revision=revision_of(model.description),
        link=group.link.target if group.link else None,
        problem=reading.problem if reading else None,
        read_by=modelyard.__version__ if reading and not reading.problem else "",
    )


def _source(model: StoredModel) -> ModelSource | None:
    # Of the first of its weights.
    for file in model.group.weights[:1]:
        record = model.record.get(file.path)
        if record is not None and record.repo and record.revision:
            return ModelSource(repo=record.repo, revision=record.revision)
    return None


log = logs.get(__name__)
T = TypeVar("T")

SCAN_INTERVAL_S = 2.0
_PAUSE_FACTOR = 20.0
"""A scan is followed by a pause of this many times its duration."""
SPACE_TTL_S = 15
SPACE_INTERVAL_S = 5.0
_CONCURRENT_WRITES = 64
_SHOWN_SKIPPED = 3


class StoreReport(NamedTuple):
    """A scanned store, with the records to publish."""

    result: ScanResult
    models: dict[str, StoredModel]
    entries: dict[str, LibraryEntry]
    trashed: dict[str, trash.Manifest]
    space: StoreSpace


@dataclass
class LibraryStore:
    """One store of this node, and the one writer of its records."""

    _bus: Bus
    scanner: StoreScanner
    _uses: Callable[[], Uses]
    _published: dict[str, LibraryEntry]
    _published_trash: dict[str, TrashedEntry]
    _is_default: bool
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the store is scanned or changed."""
    report: StoreReport | None = None
    """The last report; None while the store is unreadable."""
    _published_space: tuple[StoreSpace, float] | None = None
    _reported_uses: Uses | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.name, self.root = self.scanner.name, self.scanner.root
        self._identity = StoreSpace(
            node=self._bus.node, store=self.name, path=str(self.root), default=self._is_default
        )

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        try:
            await asyncio.to_thread(trash.recover, self.root)
        except OSError as error:
            log.warning("trash_recovery_failed", store=self.name, error=str(error))
        while True:
            self._wake.clear()
            pause_s = SCAN_INTERVAL_S
            try:
                async with self.lock:
                    pause_s = await self._scan_and_publish()
            except Exception:
                # One unexpected file must not end the scans of a store.
                log.exception("store_scan_failed", store=self.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)

    async def refresh(self) -> StoreReport | None:
        """Scan and publish now; None if the store is unreadable. The caller holds the lock."""
        await self._scan_and_publish()
        return self.report

    async def _scan_and_publish(self) -> float:
        began = time.monotonic()
        try:
            report = await asyncio.to_thread(self._scan)
        except OSError as error:
            log.warning("store_unreadable", store=self.name, error=str(error))
            self.report = None
            problem = f"The folder {self.root} cannot be read: {error.strerror}."
            await self._publish({}, {}, msgspec.structs.replace(self._identity, problem=problem))
            return SCAN_INTERVAL_S
        took_s = time.monotonic() - began
        self.report = report
        await self._purge_expired(report)
        shown = [manifest.shown(self._bus.node, self.name) for manifest in report.trashed.values()]
        await self._publish(report.entries, {entry.key: entry for entry in shown}, report.space)
        return 0.0 if report.result.pending else max(SCAN_INTERVAL_S, _PAUSE_FACTOR * took_s)

    def _scan(self) -> StoreReport:
        """Runs in a thread: everything that takes long in a large store."""
        before, uses = self.report, self._uses()
        result = self.scanner.scan()
        trashed = trash.items(self.root, before.trashed if before else {})
        if before is not None and result is before.result and uses is self._reported_uses:
            space = self._space(result, trashed, len(before.entries))
            return before._replace(trashed=trashed, space=space)
        self._reported_uses = uses
        models, entries = {}, {}
        for model in result.models:
            entry = entry_of(model, self._bus.node, self.name, users_of(model, uses))
            models[entry.key], entries[entry.key] = model, entry
        return StoreReport(result, models, entries, trashed, self._space(result, trashed, len(entries)))

    def _space(self, result: ScanResult, trashed: Mapping[str, trash.Manifest], n_entries: int) -> StoreSpace:
        disk = shutil.disk_usage(self.root)
        skipped = result.tree.skipped
        more = f" and {len(skipped) - _SHOWN_SKIPPED} more" if len(skipped) > _SHOWN_SKIPPED else ""
        return msgspec.structs.replace(
            self._identity,
            total_bytes=disk.total,
            free_bytes=disk.free,
            used_bytes=result.used_bytes,
            partial_bytes=result.partial_bytes,
            trash_bytes=sum(manifest.size_bytes for manifest in trashed.values()),
            entries=n_entries,
            files=len(result.tree.files),
            scanned_at=time.time(),
            scan_s=round(result.took_s, 4),
            problem=f"Skipped: {', '.join(skipped[:_SHOWN_SKIPPED])}{more}." if skipped else None,
        )

    async def _purge_expired(self, report: StoreReport) -> None:
        for item, manifest in list(report.trashed.items()):
            if manifest.expires_at > time.time():
                continue
            try:
                await asyncio.to_thread(trash.purge, self.root, item)
            except OSError as error:
                log.warning("trash_purge_failed", path=manifest.path, error=str(error))
                continue
            log.info("trash_item_expired", store=self.name, path=manifest.path)
            del report.trashed[item]

    async def _publish(
        self, entries: Mapping[str, LibraryEntry], trashed: Mapping[str, TrashedEntry], space: StoreSpace
    ) -> None:
        try:
            await _publish_changes(BucketStore(self._bus, buckets.LIBRARY), self._published, entries)
            await _publish_changes(BucketStore(self._bus, buckets.TRASH), self._published_trash, trashed)
            await self._publish_space(space)
        except BrokerUnavailable as error:
            # The difference remains, and is published after the next scan.
            log.warning("library_publish_failed", error=error.message)

    async def _publish_space(self, space: StoreSpace) -> None:
        """At a relevant change, and before the record expires."""
        if self._published_space is not None:
            published, at = self._published_space
            if _relevant(published) == _relevant(space) and time.monotonic() - at < SPACE_INTERVAL_S:
                return
        bucket = BucketStore(self._bus, buckets.STORES)
        await bucket.put(f"{space.node}.{space.store}", space, ttl_s=SPACE_TTL_S)
        self._published_space = (space, time.monotonic())


def _relevant(space: StoreSpace) -> tuple[object, ...]:
    return space.entries, space.used_bytes, space.trash_bytes, space.problem


async def _publish_changes(bucket: BucketStore[T], published: dict[str, T], current: Mapping[str, T]) -> None:
    async def put(key: str, value: T) -> None:
        await bucket.put(key, value)
        published[key] = value

    async def delete(key: str) -> None:
        await bucket.delete(key)
        del published[key]

    if published == current:
        return
    changes: list[Coroutine[Any, Any, None]] = [delete(key) for key in published.keys() - current.keys()]
    changes += [put(key, value) for key, value in current.items() if published.get(key) != value]
    failed: BaseException | None = None
    for start in range(0, len(changes), _CONCURRENT_WRITES):
        batch = changes[start : start + _CONCURRENT_WRITES]
        for result in await asyncio.gather(*batch, return_exceptions=True):  # all, also after an error
            failed = failed or (result if isinstance(result, BaseException) else None)
    if failed is not None:
        raise failed
