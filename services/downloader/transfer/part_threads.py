"""Two threads beside a transfer: one hashes the bytes as they arrive, one syncs them to the disk."""

import hashlib
import os
import threading
import time
from collections.abc import Callable

from services.downloader.errors import TransferError, disk_error
from services.downloader.transfer import ranges
from services.downloader.transfer.disk import CHUNK_BYTES, drop_page_cache, require_margin, sync_folder
from services.downloader.transfer.part_file import PartFile

_NOTIFY_BYTES = 4 * 1024 * 1024
_SYNC_BYTES = 64 * 1024 * 1024
_SYNC_S = 5.0


class HashThread:
    """The sha256 of the first size_bytes of an open file, read up to the frontier of the arrived bytes."""

    def __init__(self, handle: int, size_bytes: int, frontier: Callable[[], int]) -> None:
        self.hashed_bytes = 0
        self._error: OSError | None = None
        self._handle = handle
        self._size_bytes = size_bytes
        self._frontier = frontier
        self._digest = hashlib.sha256()
        self._notified_bytes = 0
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="hash", daemon=True)

    def start(self) -> None:
        self._thread.start()

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

    def stop(self) -> None:
        """End without a result."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._hash()
        except OSError as error:
            self._error = error

    def _hash(self) -> None:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while self.hashed_bytes < self._size_bytes:
            frontier = self._next_frontier()
            if frontier is None:
                return
            while self.hashed_bytes < frontier and not self._stopped:
                chunk = buffer[: min(CHUNK_BYTES, frontier - self.hashed_bytes)]
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


class SyncThread:
    """Syncs a part every 64 MiB or 5 s and watches the free space; `notify` raises its errors."""

    def __init__(self, part: PartFile, hash_thread: HashThread | None, margin_bytes: int) -> None:
        self._part = part
        self._hash_thread = hash_thread
        self._margin_bytes = margin_bytes
        self._synced = part.ranges
        self._synced_at = time.monotonic()
        self._dropped_bytes = 0
        self._error: TransferError | None = None
        self._stopped = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        """Call after every chunk; wakes the thread only when a sync is due."""
        if self._error is not None:
            raise self._error
        if self._is_due():
            with self._condition:
                self._condition.notify()

    def stop(self) -> None:
        """End; the last bytes are synced when the file is published."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()

    def _is_due(self) -> bool:
        new_bytes = self._part.done_bytes - ranges.total_bytes(self._synced)
        late = time.monotonic() - self._synced_at >= _SYNC_S
        return new_bytes >= _SYNC_BYTES or (new_bytes > 0 and late)

    def _run(self) -> None:
        try:
            sync_folder(self._part.path.parent)  # a synced file whose name is not synced would be lost
            while self._wait():
                self._sync()
                self._drop_cache()
                require_margin(self._part.path.parent, self._margin_bytes)
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
        _sync_data(self._part.handle)
        self._part.journal.add_synced(arrived, generation)
        self._synced, self._synced_at = arrived, time.monotonic()

    def _drop_cache(self) -> None:
        """What is synced and hashed is not read again."""
        end = ranges.frontier(self._synced)
        if self._hash_thread is not None:
            end = min(end, self._hash_thread.hashed_bytes)
        if end > self._dropped_bytes:
            drop_page_cache(self._part.handle, self._dropped_bytes, end)
            self._dropped_bytes = end


def _sync_data(handle: int) -> None:
    """fsync, without access times where the system can."""
    getattr(os, "fdatasync", os.fsync)(handle)
