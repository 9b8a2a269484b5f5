"""One file from its source to its destination: resumed, retried, hashed, and renamed only when verified."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from modelyard.bus import logs
from services.downloader.errors import TransferError, disk_errors
from services.downloader.transfer import connections, disk, ranges
from services.downloader.transfer.options import FileSource, TransferOptions
from services.downloader.transfer.part_file import HashThread, PartFile, SyncThread, delete_empty_part
from services.downloader.transfer.peer_sources import PeerSources

log = logs.get(__name__)
OnBytes = Callable[[int], None]

MAX_ATTEMPTS = 3
"""How often a file may arrive with a wrong hash."""
MIN_PIECE_BYTES = 8 * 1024 * 1024
MAX_PIECE_BYTES = 64 * 1024 * 1024
_READ_BYTES = 256 * 1024


def open_session() -> aiohttp.ClientSession:
    """An HTTP session for long transfers: no total timeout, 30 s without a byte."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30),
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        read_bufsize=_READ_BYTES,
    )


async def fetch_file(
    session: aiohttp.ClientSession,
    source: FileSource,
    dest: Path,
    *,
    on_bytes: OnBytes = lambda _: None,
    options: TransferOptions | None = None,
) -> None:
    """Fetch source to dest or raise TransferError; on_bytes gets the number of bytes present.

    A dest with the right hash is complete; the size alone is not enough: another commit may have it too.
    A `<dest>.part` with its journal is continued.
    """
    options = options or TransferOptions()
    if disk.file_bytes(dest) == source.size_bytes:
        on_bytes(source.size_bytes)
        options.on_problem(f"{dest.name} is here already; its bytes are being checked.")
    if not await asyncio.to_thread(is_complete, source, dest):
        try:
            await _fetch(_FileTransfer(session, source, dest, on_bytes, options))
        except TransferError:
            delete_empty_part(dest, source)
            raise
    disk.delete_part(dest)


async def _fetch(transfer: "_FileTransfer") -> None:
    attempts = 0
    while attempts < MAX_ATTEMPTS:
        if await transfer.run():
            await asyncio.to_thread(disk.publish, disk.part_path(transfer.dest), transfer.dest)
            return
        disk.delete_part(transfer.dest)
        attempts += not transfer.exclude_bad_peers()
    raise TransferError(
        "hash_mismatch",
        f"{transfer.dest.name} arrived damaged {MAX_ATTEMPTS} times: its hash is not the one that the hub "
        "lists. Try again later.",
    )


def is_complete(source: FileSource, dest: Path) -> bool:
    """Whether dest has the size and hash of the source."""
    if disk.file_bytes(dest) != source.size_bytes:
        return False
    with disk_errors(dest.name), dest.open("rb") as file:
        if source.sha256 is not None:
            return disk.sha256_of(file) == source.sha256
        return source.blob_sha1 is None or disk.blob_sha1_of(file) == source.blob_sha1


@dataclass
class _FileTransfer:
    _session: aiohttp.ClientSession
    _source: FileSource
    dest: Path
    _on_bytes: OnBytes
    _options: TransferOptions
    _use_ranges: bool = True
    _changes: int = 0
    _senders: set[str] = field(default_factory=set)
    """Nodes that sent bytes of this attempt."""

    def __post_init__(self) -> None:
        self._peers = PeerSources(self._source, self._options.find_peers)
        self._segments = self._options.segments if self._source.sha256 is not None else 1
        """One without a hash: nothing would prove that the pieces belong together."""

    async def run(self) -> bool:
        """Fetch what is missing; whether the hash is right."""
        with PartFile(self.dest, self._source, self._on_bytes) as part:
            if self._source.sha256 is None and not (part.etags and part.done_bytes < part.size_bytes):
                part.restart()  # nothing proves the bytes of an earlier process any more
            missing_bytes = part.size_bytes - part.done_bytes
            disk.require_free(self.dest.parent, missing_bytes, self._options.margin_bytes)
            if missing_bytes:
                await self._peers.refresh()
            while True:
                try:
                    return await self._fill(part)
                except connections.RangesUnsupported:
                    self._use_ranges = False
                except connections.FileChanged:
                    self._count_change()
                    part.restart()
                finally:
                    self._senders |= part.peers

    def exclude_bad_peers(self) -> bool:
        """After a wrong hash: whether peers sent the bytes, so that the next attempt has other sources.

        With a hub, it is the only source from now on. Without one the peer that sent the bytes is
        blacklisted; after several only one at a time is used. TransferError if no peer is left.
        """
        nodes, self._senders = tuple(sorted(self._senders)), set()
        if not nodes:
            return False
        self._options.on_problem(
            f"{', '.join(nodes)} sent wrong bytes of {self.dest.name}; it is fetched again."
        )
        if self._source.url is None and len(nodes) > 1:
            was_alone, self._peers.one_at_a_time = self._peers.one_at_a_time, True
            return not was_alone
        self._options.on_hash_mismatch(self._source, nodes)
        self._peers.blacklist(nodes)
        if self._source.url is not None:
            self._peers = PeerSources(self._source, None)
        elif self._peers.exhausted:
            raise TransferError(
                "hash_mismatch",
                f"The file {self.dest.name} of {nodes[0]} does not match its record; "
                "check it there: yard library verify.",
            )
        return True

    def _count_change(self) -> None:
        log.warning("file_changed_at_hub", file=self.dest.name)
        self._changes += 1
        if self._changes == MAX_ATTEMPTS:
            raise TransferError(
                "changed_at_hub", f"{self.dest.name} changes at the hub while it is fetched; retry it later."
            )

    async def _fill(self, part: PartFile) -> bool:
        """Fetch the missing pieces while the threads hash and sync; whether the hash is right."""
        hash_thread = None
        if self._source.sha256 is not None:
            hash_thread = HashThread(part.handle, part.size_bytes, lambda: ranges.frontier(part.ranges))
        sync_thread = SyncThread(part, hash_thread, self._options.margin_bytes)
        threads = [thread for thread in (hash_thread, sync_thread) if thread is not None]
        for thread in threads:
            thread.start()

        def on_write() -> None:
            for thread in threads:
                thread.notify()

        try:
            with disk_errors(self.dest.name):
                await self._connections(part, on_write).run(self._segments)
                return await asyncio.to_thread(self._is_valid, part, hash_thread)
        finally:
            for thread in threads:
                thread.stop()

    def _is_valid(self, part: PartFile, hash_thread: HashThread | None) -> bool:
        """Some mirrors make up their listings: git's hash counts only if the bytes' ETag is it."""
        if hash_thread is not None:
            return hash_thread.result() == self._source.sha256
        listed = self._source.blob_sha1
        if f'"{listed}"' not in part.etags.values():
            return True
        with part.path.open("rb") as file:
            return disk.blob_sha1_of(file) == listed

    def _connections(self, part: PartFile, on_write: Callable[[], None]) -> connections.Connections:
        options = connections.ConnectionOptions(
            on_write=on_write,
            use_ranges=self._use_ranges,
            # Two servers of one name may send different ETags for the same bytes; then the hash decides.
            single_etag=self._source.sha256 is None or self._changes == 0,
        )
        missing = ranges.gaps(part.ranges, 0, part.size_bytes)
        pieces = ranges.pieces(missing, piece_bytes(part.size_bytes, self._segments))
        if missing and not self._use_ranges:
            pieces = [(0, part.size_bytes)]
        return connections.Connections(
            self._session, self._source, part, self._options, options, self._peers, pieces
        )


def piece_bytes(size_bytes: int, segments: int) -> int:
    """How much of a file one request is for; everything for small files and single segments."""
    if segments == 1 or size_bytes < 2 * MIN_PIECE_BYTES:
        return max(1, size_bytes)
    return max(MIN_PIECE_BYTES, min(MAX_PIECE_BYTES, size_bytes // (4 * segments)))
