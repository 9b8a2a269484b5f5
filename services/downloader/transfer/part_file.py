"""The part file: the bytes of a file that have arrived so far, at their offsets, with a journal."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from services.downloader.errors import disk_error
from services.downloader.transfer import ranges
from services.downloader.transfer.disk import delete_part, file_bytes, journal_path, open_part, part_path
from services.downloader.transfer.journal import Journal, read_journal
from services.downloader.transfer.options import FileSource
from services.downloader.transfer.ranges import Ranges

_MAX_JOURNAL_LINES = 2048
_MIN_GRAIN_BYTES = 16 * 1024
_MAX_GRAIN_BYTES = 1024 * 1024


class PartFile:
    """An open part. Any thread may read its ranges; one thread writes."""

    def __init__(self, dest: Path, source: FileSource, on_bytes: Callable[[int], None]) -> None:
        self.path = part_path(dest)
        self.size_bytes = source.size_bytes
        self._on_bytes = on_bytes
        grain_bytes = source.size_bytes // _MAX_JOURNAL_LINES
        self._grain_bytes = max(_MIN_GRAIN_BYTES, min(_MAX_GRAIN_BYTES, grain_bytes))
        """The bytes of one journal line, which are the most that a kill can cost."""
        self._unrecorded: dict[int, int] = {}
        """Runs that the journal does not have yet: start by end."""
        with self._disk_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if file_bytes(self.path) != source.size_bytes:  # the journal belongs to another file
                journal_path(dest).unlink(missing_ok=True)
            self.journal = Journal(journal_path(dest), source.size_bytes, source.sha256)
            self.handle = open_part(self.path, source.size_bytes)
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
        """The number of bytes that have arrived."""
        return ranges.total_bytes(self.ranges)

    def write(self, offset: int, chunk: bytes) -> None:
        """Write bytes at their offset; bytes that are there already stay, since they may be hashed."""
        with self._disk_errors():
            for start, end in ranges.gaps(self.ranges, offset, offset + len(chunk)):
                self._write_new(
                    start, chunk if len(chunk) == end - start else chunk[start - offset : end - offset]
                )
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
        with self._disk_errors():
            self.journal.add_etag(host, etag)

    def add_peer(self, node: str) -> None:
        """Record that a node sends bytes, in case the hash turns out to be wrong."""
        if node in self.peers:
            return
        self.peers.add(node)
        with self._disk_errors():
            self.journal.add_peer(node)

    def restart(self) -> None:
        """Discard every byte, the journal first."""
        self._unrecorded.clear()
        self.ranges, self.etags, self.peers = (), {}, set()
        with self._disk_errors():
            self.journal.restart()
            os.truncate(self.handle, 0)
            os.truncate(self.handle, self.size_bytes)
        self._on_bytes(0)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self.path.name) from error


def delete_empty_part(dest: Path, source: FileSource) -> None:
    """Delete a part without any bytes: it has the full size of the file and would look complete."""
    if not read_journal(journal_path(dest), source.size_bytes, source.sha256).arrived:
        delete_part(dest)


def arrived_bytes(dest: Path, size_bytes: int, sha256: str | None) -> int:
    """How many bytes of dest an earlier process has fetched; opens nothing for writing."""
    if sha256 is None or file_bytes(part_path(dest)) != size_bytes:
        return 0
    return ranges.total_bytes(read_journal(journal_path(dest), size_bytes, sha256).arrived)
