"""The sha256 of files that no record knows: read once for as long as they stay as they are."""

import asyncio
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from modelyard.bus import logs
from modelyard.bus.tasks import Tasks
from schemas.errors import Conflict
from services.downloader.library import inside
from services.downloader.library.disk_work import sentence
from services.downloader.library.walk import Found
from services.downloader.peers.grants import Given

log = logs.get(__name__)

_CHUNK_BYTES = 1024 * 1024


class Hashes:
    """Reads one file at a time, in a thread."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._known: dict[Given, str | OSError] = {}
        self._wanted: dict[Given, None] = {}
        self._reading: asyncio.Task[None] | None = None
        self._read_bytes = 0
        """Of the file that is being read."""
        self._stopped = False

    def of(self, given: Given) -> str | None:
        """The sha256 of a file as it is now, if it is known; Conflict, once, if it could not be read."""
        known = self._known.get(given)
        if isinstance(known, OSError):
            del self._known[given]
            raise Conflict(f"{given.file.path} cannot be read. {sentence(known)}") from known
        return known

    def having(self, sha256: str, size_bytes: int) -> Given | None:
        """A file with this sha256."""
        return next(
            (
                given
                for given, known in self._known.items()
                if known == sha256 and given.file.size_bytes == size_bytes
            ),
            None,
        )

    def want(self, root: Path, files: Iterable[Found]) -> int:
        """Have these read; how many bytes that still takes."""
        wanted = [Given(root, file) for file in files if Given(root, file) not in self._known]
        self._wanted.update(dict.fromkeys(wanted))
        if wanted and (self._reading is None or self._reading.done()):
            self._stopped = False
            self._reading = self._tasks.spawn(self._read_all(), "hashes")
        return max(0, sum(given.file.size_bytes for given in wanted) - self._read_bytes)

    async def settle(self, timeout_s: float) -> None:
        """Wait for all that is wanted, but not longer."""
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=timeout_s)

    async def _read_all(self) -> None:
        try:
            while self._wanted:
                given = next(iter(self._wanted))
                self._known[given] = await asyncio.to_thread(self._read_safely, given)
                del self._wanted[given]
                self._read_bytes = 0
        finally:
            self._stopped = True  # a thread cannot be cancelled: it ends at its next chunk

    def _read_safely(self, given: Given) -> str | OSError:
        try:
            return self._read(given)
        except OSError as error:
            log.warning("file_not_hashed", path=given.file.path, error=str(error))
            return error

    def _read(self, given: Given) -> str:
        digest = hashlib.sha256()
        with inside.opened(given.root, given.file.path) as file:
            found = os.fstat(file.fileno())
            if (found.st_size, found.st_mtime_ns) != (given.file.size_bytes, given.file.modified_ns):
                raise OSError(0, "it was changed just now; try again", given.file.path)
            while not self._stopped and (chunk := file.read(_CHUNK_BYTES)):
                digest.update(chunk)
                self._read_bytes += len(chunk)
        return digest.hexdigest()
