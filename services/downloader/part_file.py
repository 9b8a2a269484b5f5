"""The bytes of a file that have arrived so far, wherever they belong, with a journal of them."""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from services.downloader import ranges
from services.downloader.disk import file_bytes, forget_part, journal_path, open_part, part_path
from services.downloader.errors import disk_error
from services.downloader.journal import Journal, read
from services.downloader.ranges import Ranges
from services.downloader.source import Source

_GRAINS = 2048
_MIN_GRAIN_BYTES = 16 * 1024
_MAX_GRAIN_BYTES = 1024 * 1024


class PartFile:
    """An open part. Its ranges may be read by any thread; one thread writes."""

    def __init__(self, dest: Path, source: Source, on_bytes: Callable[[int], None]) -> None:
        self.path = part_path(dest)
        self.size_bytes = source.size_bytes
        self._on_bytes = on_bytes
        self._grain_bytes = max(_MIN_GRAIN_BYTES, min(_MAX_GRAIN_BYTES, source.size_bytes // _GRAINS))
        """So many bytes a line of the journal: they are what a kill may cost."""
        self._runs: dict[int, int] = {}
        """Bytes that the journal does not have yet: the start of each run by its end."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if file_bytes(self.path) != source.size_bytes:  # the journal speaks of another file
                journal_path(dest).unlink(missing_ok=True)
            self.journal = Journal(journal_path(dest), source.size_bytes, source.sha256)
            self.handle = open_part(self.path, source.size_bytes)
        except OSError as error:
            raise disk_error(error, self.path.name) from error
        self.ranges: Ranges = self.journal.found.arrived
        self.etags = self.journal.found.etags
        self.givers = self.journal.found.givers
        """Nodes that gave some of the bytes, to this process or an earlier one."""
        on_bytes(self.done_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """Write down the last bytes; the first error is the one to tell."""
        try:
            self._write_down()
        except OSError as error:
            if kind is None:
                raise disk_error(error, self.path.name) from error
        finally:
            self.journal.close()
            os.close(self.handle)

    @property
    def done_bytes(self) -> int:
        """How many bytes are here."""
        return ranges.total_bytes(self.ranges)

    def write(self, offset: int, chunk: bytes) -> None:
        """Put bytes into their place; those that are here already stay, for they may be hashed."""
        try:
            for start, end in ranges.gaps(self.ranges, offset, offset + len(chunk)):
                self._write_new(
                    start, chunk if len(chunk) == end - start else chunk[start - offset : end - offset]
                )
        except OSError as error:
            raise disk_error(error, self.path.name) from error
        self._on_bytes(self.done_bytes)

    def _write_new(self, start: int, chunk: bytes) -> None:
        view, at = memoryview(chunk), start
        while view:
            count = os.pwrite(self.handle, view, at)
            view, at = view[count:], at + count
        self.ranges = ranges.add(self.ranges, start, at)
        run = self._runs.pop(start, start)
        if at - run >= self._grain_bytes:
            self.journal.written(run, at)
        else:
            self._runs[at] = run

    def _write_down(self) -> None:
        for end, start in self._runs.items():
            self.journal.written(start, end)
        self._runs.clear()

    def know_etag(self, host: str, etag: str) -> None:
        """Remember how a host calls this version of the file."""
        self.etags[host] = etag
        try:
            self.journal.etag(host, etag)
        except OSError as error:
            raise disk_error(error, self.path.name) from error

    def know_giver(self, node: str) -> None:
        """Remember that this node gives bytes, in case they turn out to be wrong."""
        if node in self.givers:
            return
        self.givers.add(node)
        try:
            self.journal.giver(node)
        except OSError as error:
            raise disk_error(error, self.path.name) from error

    def restart(self) -> None:
        """Forget every byte, the journal first."""
        self._runs.clear()
        self.ranges, self.etags, self.givers = (), {}, set()
        try:
            self.journal.restart()
            os.truncate(self.handle, 0)
            os.truncate(self.handle, self.size_bytes)
        except OSError as error:
            raise disk_error(error, self.path.name) from error
        self._on_bytes(0)


def forget_empty_part(dest: Path, source: Source) -> None:
    """Take away a part in which nothing has arrived: it would look like the whole size of the file."""
    if not read(journal_path(dest), source.size_bytes, source.sha256).arrived:
        forget_part(dest)


def arrived_bytes(dest: Path, size_bytes: int, sha256: str | None) -> int:
    """How many bytes of dest an earlier process has left, for who only wants to know."""
    if sha256 is None or file_bytes(part_path(dest)) != size_bytes:
        return 0
    found = read(journal_path(dest), size_bytes, sha256)
    return ranges.total_bytes(found.arrived)
