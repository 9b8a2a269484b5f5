"""The part file: the bytes of a file that have arrived so far, at their offsets, with a journal."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from services.downloader.errors import TransferError, disk_error, disk_errors
from services.downloader.transfer import disk, ranges
from services.downloader.transfer.journal import Journal, read_journal
from services.downloader.transfer.options import FileSource
from services.downloader.transfer.ranges import Ranges

_MAX_JOURNAL_LINES = 2048
_MIN_GRAIN_BYTES = 16 * 1024
_MAX_GRAIN_BYTES = 1024 * 1024
_NOTIFY_BYTES = 4 * 1024 * 1024
_SYNC_BYTES = 64 * 1024 * 1024
_SYNC_S = 5.0


class PartFile:
    """An open part. Any thread may read its ranges; one thread writes."""

    def __init__(self, dest: Path, source: FileSource, on_bytes: Callable[[int], None]) -> None:
        self.path = disk.part_path(dest)
        self.size_bytes = source.size_bytes
        self._on_bytes = on_bytes
        grain_bytes = source.size_bytes // _MAX_JOURNAL_LINES
        self._grain_bytes = max(_MIN_GRAIN_BYTES, min(_MAX_GRAIN_BYTES, grain_bytes))
        """The bytes of one journal line, which are the most that a kill can cost."""
        self._unrecorded: dict[int, int] = {}
        """Runs that the journal does not have yet: start by end."""
        with disk_errors(self.path.name):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if disk.file_bytes(self.path) != source.size_bytes:  # the journal belongs to another file
                disk.journal_path(dest).unlink(missing_ok=True)
            self.journal = Journal(disk.journal_path(dest), source.size_bytes, source.sha256)
            self.handle = disk.open_part(self.path, source.size_bytes)
        self.ranges: Ranges = self.journal.state.arrived
        self.etags = self.journal.state.etags
        self.peers = self.journal.state.peers
        """Nodes that sent some of the bytes, to this process or an earlier one."""
        on_bytes(self.done_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """Record the last bytes; an earlier error takes precedence over one of the journal."""
        try:
            self._flush()
        except OSError as error:
            if kind is None:
                raise disk_error(error, self.path.name) from error
        finally:
            self.journal.close()
            os.close(self.handle)

    @property
    def done_bytes(self) -> int:
        return ranges.total_bytes(self.ranges)

    def write(self, offset: int, chunk: bytes) -> None:
        """Write bytes at their offset; bytes that are there already stay, since they may be hashed."""
        with disk_errors(self.path.name):
            for start, end in ranges.gaps(self.ranges, offset, offset + len(chunk)):
                self._write_new(start, chunk[start - offset : end - offset])
        self._on_bytes(self.done_bytes)

    def _write_new(self, start: int, chunk: bytes) -> None:
        view, at = memoryview(chunk), start
        while view:
            count = os.pwrite(self.handle, view, at)
            view, at = view[count:], at + count
        self.ranges = ranges.add(self.ranges, start, at)
        run_start = self._unrecorded.pop(start, start)
        if at - run_start >= self._grain_bytes:
            self.journal.add_written(run_start, at)
        else:
            self._unrecorded[at] = run_start

    def _flush(self) -> None:
        for end, start in self._unrecorded.items():
            self.journal.add_written(start, end)
        self._unrecorded.clear()

    def add_etag(self, host: str, etag: str) -> None:
        """Record the ETag that a host sends for this file."""
        self.etags[host] = etag
        with disk_errors(self.path.name):
            self.journal.add_etag(host, etag)

    def add_peer(self, node: str) -> None:
        """Record that a node sends bytes, in case the hash turns out to be wrong."""
        if node in self.peers:
            return
        self.peers.add(node)
        with disk_errors(self.path.name):
            self.journal.add_peer(node)

    def restart(self) -> None:
        """Discard every byte, the journal first."""
        self._unrecorded.clear()
        self.ranges, self.etags, self.peers = (), {}, set()
        with disk_errors(self.path.name):
            self.journal.restart()
            os.truncate(self.handle, 0)
            os.truncate(self.handle, self.size_bytes)
        self._on_bytes(0)


def delete_empty_part(dest: Path, source: FileSource) -> None:
    """Delete a part without any bytes: it has the full size of the file and would count as complete."""
    if not read_journal(disk.journal_path(dest), source.size_bytes, source.sha256).arrived:
        disk.delete_part(dest)


def arrived_bytes(dest: Path, size_bytes: int, sha256: str | None) -> int:
    """How many bytes of dest an earlier process has fetched; opens nothing for writing."""
    if sha256 is None or disk.file_bytes(disk.part_path(dest)) != size_bytes:
        return 0
    return ranges.total_bytes(read_journal(disk.journal_path(dest), size_bytes, sha256).arrived)


class _PartThread:
    """A thread that waits for bytes of a part until it is stopped."""

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End without a result; the last bytes are synced when the file is published."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()


class HashThread(_PartThread):
    """The sha256 of the first size_bytes of an open file, read up to the frontier of the arrived bytes."""

    def __init__(self, handle: int, size_bytes: int, frontier: Callable[[], int]) -> None:
        super().__init__("hash")
        self.hashed_bytes = 0
        self._error: OSError | None = None
        self._handle = handle
        self._size_bytes = size_bytes
        self._frontier = frontier
        self._digest = hashlib.sha256()
        self._notified_bytes = 0

    def notify(self) -> None:
        """Call after every chunk; wakes the thread only when there is enough to hash."""
        frontier = self._frontier()
        if frontier - self._notified_bytes >= _NOTIFY_BYTES or frontier == self._size_bytes:
            self._notified_bytes = frontier
            with self._condition:
                self._condition.notify()

    def result(self) -> str:
        """Block until the last byte is hashed: 64 hex digits."""
        self.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def _run(self) -> None:
        try:
            self._hash()
        except OSError as error:
            self._error = error

    def _hash(self) -> None:
        buffer = memoryview(bytearray(disk.CHUNK_BYTES))
        while self.hashed_bytes < self._size_bytes:
            frontier = self._next_frontier()
            if frontier is None:
                return
            while self.hashed_bytes < frontier and not self._stopped:
                chunk = buffer[: min(disk.CHUNK_BYTES, frontier - self.hashed_bytes)]
                count = os.preadv(self._handle, [chunk], self.hashed_bytes)
                if count == 0:
                    raise OSError(0, "the file became shorter")
                self._digest.update(chunk[:count])
                self.hashed_bytes += count

    def _next_frontier(self) -> int | None:
        """Wait for more bytes; None once stopped."""
        with self._condition:
            while not self._stopped and self._frontier() <= self.hashed_bytes:
                self._condition.wait()
        return None if self._stopped else self._frontier()


class SyncThread(_PartThread):
    """Syncs a part every 64 MiB or 5 s and watches the free space; `notify` raises its errors."""

    def __init__(self, part: PartFile, hash_thread: HashThread | None, margin_bytes: int) -> None:
        super().__init__("sync")
        self._part = part
        self._hash_thread = hash_thread
        self._margin_bytes = margin_bytes
        self._synced = part.ranges
        self._synced_at = time.monotonic()
        self._dropped_bytes = 0
        self._error: TransferError | None = None

    def notify(self) -> None:
        """Call after every chunk; wakes the thread only when a sync is due."""
        if self._error is not None:
            raise self._error
        if self._is_due():
            with self._condition:
                self._condition.notify()

    def _is_due(self) -> bool:
        new_bytes = self._part.done_bytes - ranges.total_bytes(self._synced)
        late = time.monotonic() - self._synced_at >= _SYNC_S
        return new_bytes >= _SYNC_BYTES or (new_bytes > 0 and late)

    def _run(self) -> None:
        try:
            disk.sync_folder(self._part.path.parent)  # a synced file whose name is not synced would be lost
            while self._wait():
                self._sync()
                self._drop_cache()
                disk.require_margin(self._part.path.parent, self._margin_bytes)
        except OSError as error:
            self._error = disk_error(error, self._part.path.name)
        except TransferError as error:
            self._error = error

    def _wait(self) -> bool:
        with self._condition:
            while not self._stopped and not self._is_due():
                self._condition.wait(_SYNC_S)
        return not self._stopped

    def _sync(self) -> None:
        generation, arrived = self._part.journal.generation, self._part.ranges
        getattr(os, "fdatasync", os.fsync)(self._part.handle)  # without access times where it can
        self._part.journal.add_synced(arrived, generation)
        self._synced, self._synced_at = arrived, time.monotonic()

    def _drop_cache(self) -> None:
        """What is synced and hashed is not read again."""
        end = ranges.frontier(self._synced)
        if self._hash_thread is not None:
            end = min(end, self._hash_thread.hashed_bytes)
        if end > self._dropped_bytes:
            disk.drop_page_cache(self._part.handle, self._dropped_bytes, end)
            self._dropped_bytes = end
