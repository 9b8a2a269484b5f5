"""The sha256 of a file while it arrives: a thread reads behind the bytes that are there without a gap."""

import hashlib
import os
import threading
from collections.abc import Callable

from services.downloader.disk import CHUNK_BYTES

_WAKE_BYTES = 4 * 1024 * 1024


class Hashing:
    """Hashes the first size_bytes of an open file; `wake` it now and then, `finish` when all is there."""

    def __init__(self, handle: int, size_bytes: int, frontier: Callable[[], int]) -> None:
        self.hashed_bytes = 0
        self.error: OSError | None = None
        self._handle = handle
        self._size_bytes = size_bytes
        self._frontier = frontier
        self._digest = hashlib.sha256()
        self._told_bytes = 0
        self._more = threading.Condition()
        self._left = False
        self._thread = threading.Thread(target=self._run, name="hashing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look whether there is more to hash; cheap enough for every chunk."""
        frontier = self._frontier()
        if frontier - self._told_bytes >= _WAKE_BYTES or frontier == self._size_bytes:
            self._told_bytes = frontier
            with self._more:
                self._more.notify()

    def finish(self) -> str:
        """Wait for the last byte: 64 hex digits. Blocks."""
        self.wake()
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self._digest.hexdigest()

    def leave(self) -> None:
        """End without a result."""
        with self._more:
            self._left = True
            self._more.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._hash()
        except OSError as error:
            self.error = error

    def _hash(self) -> None:
        chunk = memoryview(bytearray(CHUNK_BYTES))
        while self.hashed_bytes < self._size_bytes:
            frontier = self._wait()
            if frontier is None:
                return
            while self.hashed_bytes < frontier and not self._left:
                room = chunk[: min(CHUNK_BYTES, frontier - self.hashed_bytes)]
                count = os.preadv(self._handle, [room], self.hashed_bytes)
                if count == 0:
                    raise OSError(0, "the file became shorter")
                self._digest.update(room[:count])
                self.hashed_bytes += count

    def _wait(self) -> int | None:
        """The next frontier; None when nobody wants the result any more."""
        with self._more:
            while not self._left and self._frontier() <= self.hashed_bytes:
                self._more.wait()
        return None if self._left else self._frontier()
