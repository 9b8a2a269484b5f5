"""What makes arrived bytes safe: a thread has the disk confirm them, and watches the room left."""

import os
import threading
import time

from services.downloader import ranges
from services.downloader.disk import forget_cached, require_margin, sync_folder
from services.downloader.errors import TransferError, disk_error
from services.downloader.hashing import Hashing
from services.downloader.part_file import PartFile

_EVERY_BYTES = 64 * 1024 * 1024
_EVERY_S = 5.0


class Keeping:
    """Confirms a part's bytes every 64 MiB or 5 s; `check` raises what has gone wrong."""

    def __init__(self, part: PartFile, hashing: Hashing | None, margin_bytes: int) -> None:
        self._part = part
        self._hashing = hashing
        self._margin_bytes = margin_bytes
        self._synced = part.ranges
        self._forgotten_bytes = 0
        self._error: TransferError | None = None
        self._leave = False
        self._turn = threading.Condition()
        self._synced_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="keeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Bytes have arrived; cheap enough for every chunk."""
        if self._error is not None:
            raise self._error
        if self._due():
            with self._turn:
                self._turn.notify()

    def leave(self) -> None:
        """End; what is not confirmed yet is so by whoever publishes the file."""
        with self._turn:
            self._leave = True
            self._turn.notify()
        self._thread.join()

    def _due(self) -> bool:
        fresh_bytes = self._part.done_bytes - ranges.total_bytes(self._synced)
        late = time.monotonic() - self._synced_at >= _EVERY_S
        return fresh_bytes >= _EVERY_BYTES or (fresh_bytes > 0 and late)

    def _run(self) -> None:
        try:
            sync_folder(self._part.path.parent)  # a synced file without a name would be lost all the same
            while self._wait():
                self._sync()
                self._forget()
                require_margin(self._part.path.parent, self._margin_bytes)
        except OSError as error:
            self._error = disk_error(error, self._part.path.name)
        except TransferError as error:
            self._error = error

    def _wait(self) -> bool:
        with self._turn:
            while not self._leave and not self._due():
                self._turn.wait(_EVERY_S)
        return not self._leave

    def _sync(self) -> None:
        life, arrived = self._part.journal.life, self._part.ranges
        _confirm(self._part.handle)
        self._part.journal.synced(arrived, life)
        self._synced, self._synced_at = arrived, time.monotonic()

    def _forget(self) -> None:
        """What is on the disk and hashed is not read again by us."""
        until = ranges.frontier(self._synced)
        if self._hashing is not None:
            until = min(until, self._hashing.hashed_bytes)
        if until > self._forgotten_bytes:
            forget_cached(self._part.handle, self._forgotten_bytes, until)
            self._forgotten_bytes = until


def _confirm(handle: int) -> None:
    """As fsync, without waiting for times of access where the system knows the difference."""
    getattr(os, "fdatasync", os.fsync)(handle)
