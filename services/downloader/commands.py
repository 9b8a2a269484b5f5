"""The commands about downloads: start, pause, resume, cancel, retry, move, limit, delete."""

import asyncio
import time
from dataclasses import dataclass, field

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketStore
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import check_model_name, check_token, new_id
from schemas.downloads import (
    ENDED,
    AddDownloads,
    Download,
    DownloadRef,
    DownloadsAdded,
    DownloadState,
    LimitDownload,
    MoveDownload,
    ReferenceResult,
    StartDownload,
)
from schemas.errors import BadRequest, Conflict, NotFound, YardError
from services.downloader.node_commands import NodeCommands
from services.downloader.queue import RunQueue, find_duplicate, last_order, moved
from services.downloader.records import DownloadRecords
from services.downloader.reference import MAX_REFERENCES, Reference, find_references, parse_reference
from services.downloader.register.proposal import name_of_reference
from services.downloader.register.registrar import Registrar

_S = DownloadState


@dataclass
class DownloadCommands:
    """Handles commands about this node's downloads; on the first node it also forwards those about others."""

    _bus: Bus
    _settings: Settings
    _records: DownloadRecords
    _queue: RunQueue
    _registrar: Registrar
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Commands are carried out one by one, so that none meets another half done."""

    async def start(self, commands: Commands) -> None:
        first_node = not self._settings.joined
        add = NodeCommands(self._bus, commands, subjects.DOWNLOAD_AT_NODE, first_node).add
        await add(subjects.DOWNLOAD_START, self.on_start, self._requested_node)
        await add(subjects.DOWNLOAD_ADD, self.on_add, self._requested_node)
        await add(subjects.DOWNLOAD_PAUSE, self.on_pause, self._node_of)
        await add(subjects.DOWNLOAD_RESUME, self.on_resume, self._node_of)
        await add(subjects.DOWNLOAD_CANCEL, self.on_cancel, self._node_of)
        await add(subjects.DOWNLOAD_RETRY, self.on_retry, self._node_of)
        await add(subjects.DOWNLOAD_MOVE, self.on_move, self._node_of)
        await add(subjects.DOWNLOAD_LIMIT, self.on_limit, self._node_of)
        await add(
            subjects.DOWNLOAD_FORGET, self.on_forget, self._node_of, on_node_absent=self._forget_of_absent
        )

    def _requested_node(self, order: StartDownload | AddDownloads) -> str:
        return order.node or self._bus.node

    async def _node_of(self, ref: DownloadRef | MoveDownload | LimitDownload) -> str:
        """Read from the broker, since another node may have added the download a moment ago."""
        return (await self._stored(ref.download)).node or self._bus.node

    async def _forget_of_absent(self, ref: DownloadRef) -> Download:
        """Delete a record of a node that has no downloader running."""
        download = await self._stored(ref.download)
        await BucketStore(self._bus, buckets.DOWNLOADS).delete(ref.download)
        return download

    async def _stored(self, key: str) -> Download:
        try:
            download = await BucketStore(self._bus, buckets.DOWNLOADS).get(check_token(key))
        except ValueError:
            download = None
        if download is None:
            raise _not_found(key)
        return download

    async def on_start(self, order: StartDownload) -> Download:
        """Start a download, or return the active one of the same files."""
        async with self._lock:
            reference, model = _parse(order)
            active = self._records.active()
            duplicate = find_duplicate(active, reference, order.name, order.choice)
            if duplicate is not None:
                if duplicate.state is _S.PAUSED:
                    await self._queue.enqueue(duplicate.download)
                return self._records[duplicate.download]
            now = time.time()
            download = Download(
                download=new_id(),
                reference=str(reference),
                model=model,
                state=_S.QUEUED,
                created_at=now,
                changed_at=now,
                node=self._settings.node,
                order=last_order(active),
                limit_bytes_s=_checked_limit(order.limit_bytes_s),
                choice=order.choice,
                register=order.register,
                overrides=order.overrides,
            )
            self._registrar.check_names(download)
            await self._records.add(download)
            await self._queue.start_next()
            return download

    async def on_add(self, order: AddDownloads) -> DownloadsAdded:
        """Start a download for each reference in a text; a refused one does not affect the others."""
        references = find_references(order.text)
        if not references:
            raise BadRequest("The text names no model; write references like org/name.", param="text")
        if len(references) > MAX_REFERENCES:
            raise BadRequest(
                f"The text names more than {MAX_REFERENCES} models; add fewer at once.", param="text"
            )
        return DownloadsAdded(added=tuple([await self._add(reference, order) for reference in references]))

    async def _add(self, reference: str, order: AddDownloads) -> ReferenceResult:
        start = StartDownload(
            reference=reference,
            choice=order.choice,
            register=order.register,
            limit_bytes_s=order.limit_bytes_s,
        )
        try:
            return ReferenceResult(reference=reference, download=await self.on_start(start))
        except YardError as error:
            return ReferenceResult(reference=reference, error=error.body().error)

    async def on_pause(self, ref: DownloadRef) -> Download:
        """Kill the worker. Idempotent."""
        async with self._lock:
            if self._active(ref.download).state is not _S.PAUSED:
                await self._queue.stop(ref.download, _S.PAUSED)
            return self._records[ref.download]

    async def on_resume(self, ref: DownloadRef) -> Download:
        """Queue a paused download at its old position."""
        async with self._lock:
            if self._active(ref.download).state is _S.PAUSED:
                await self._queue.enqueue(ref.download)
            return self._records[ref.download]

    async def on_cancel(self, ref: DownloadRef) -> Download:
        """End a download; its worker is killed at once."""
        async with self._lock:
            self._stored_here(ref.download)
            await self._queue.stop(ref.download, _S.CANCELLED)
            return self._records[ref.download]

    async def on_retry(self, ref: DownloadRef) -> Download:
        """Queue a failed or cancelled download at the end, for the newest commit."""
        async with self._lock:
            download = self._stored_here(ref.download)
            if download.state not in (_S.FAILED, _S.CANCELLED):
                raise Conflict(
                    f"The download of {download.reference} is {download.state}; there is nothing to retry."
                )
            reference, active = parse_reference(download.reference), self._records.active()
            if find_duplicate(active, reference, download.model, download.choice):
                raise Conflict(f"{download.reference} is being downloaded again already.")
            await self._records.change(ref.download, order=last_order(active), error=None, revision=None)
            await self._queue.enqueue(ref.download)
            return self._records[ref.download]

    async def on_move(self, order: MoveDownload) -> Download:
        async with self._lock:
            download = self._stored_here(order.download)
            if download.state is not _S.QUEUED or self._queue.is_running(order.download):
                raise Conflict(
                    f"The download of {download.reference} is not queued; only a queued one has a position."
                )
            for key, position in moved(self._records.active(), order.download, order.to).items():
                await self._records.change(key, order=position)
            return self._records[order.download]

    async def on_limit(self, order: LimitDownload) -> Download:
        """Set a download's bandwidth limit; a running one obeys at once."""
        async with self._lock:
            self._active(order.download)
            limit = _checked_limit(order.limit_bytes_s)
            download = await self._records.change(order.download, limit_bytes_s=limit)
            await self._queue.apply_limits()
            return download

    async def on_forget(self, ref: DownloadRef) -> Download:
        """Delete the record of an ended download."""
        async with self._lock:
            download = self._stored_here(ref.download)
            if download.state not in ENDED:
                raise Conflict(f"The download of {download.reference} has not ended; cancel it first.")
            await self._records.delete(ref.download)
            return download

    def _stored_here(self, key: str) -> Download:
        if key not in self._records.downloads:
            raise _not_found(key)
        return self._records[key]

    def _active(self, key: str) -> Download:
        download = self._stored_here(key)
        if download.state in ENDED:
            raise Conflict(f"The download of {download.reference} is {download.state} already.")
        return download


def _not_found(key: str) -> NotFound:
    return NotFound(f"There is no download {key}.", param="download")


def _parse(order: StartDownload) -> tuple[Reference, str]:
    try:
        reference = parse_reference(order.reference)
        return reference, check_model_name(order.name or name_of_reference(reference))
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _checked_limit(limit_bytes_s: int | None) -> int | None:
    if limit_bytes_s is not None and limit_bytes_s < 1:
        raise BadRequest("A limit is a number of bytes a second, 1 or more.", param="limit_bytes_s")
    return limit_bytes_s
