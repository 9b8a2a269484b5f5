"""The journal beside a part file: which bytes have arrived, never more than that.

One JSON array a line, append-only. `written` bytes survive the death of the process; `synced` bytes also
survive a power cut, since such a line is appended after the disk has confirmed the bytes. After a reboot only
`synced` lines count. A line that is incomplete or not JSON was cut off by a crash and is skipped.
"""

import os
import threading
from functools import cache
from pathlib import Path

import msgspec
import psutil

from services.downloader.transfer import ranges
from services.downloader.transfer.disk import open_append_only, replace_file
from services.downloader.transfer.ranges import Ranges

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_Line = list[str | int | None]


class JournalState(msgspec.Struct, kw_only=True):
    """What an earlier process recorded."""

    written: Ranges = ()
    synced: Ranges = ()
    etags: dict[str, str] = msgspec.field(default_factory=dict)
    """By host: another ETag means another file."""
    peers: set[str] = msgspec.field(default_factory=set)
    """Nodes that sent some of the bytes."""

    @property
    def arrived(self) -> Ranges:
        """All bytes that can be relied on now."""
        arrived = self.written
        for span in self.synced:
            arrived = ranges.add(arrived, *span)
        return arrived


class Journal:
    """An open journal; several threads may append."""

    def __init__(self, path: Path, size_bytes: int, sha256: str | None) -> None:
        self._head: _Line = ["file", size_bytes, sha256]
        self._path = path
        self.state = read_journal(path, size_bytes, sha256)
        self._lock = threading.Lock()
        self.generation = 0
        """Incremented by each restart."""
        self._handle = self._rewrite()

    def _rewrite(self) -> int:
        """Compact the file to its current state and open it for appending."""
        state = self.state
        lines: list[_Line] = [self._head, ["boot", boot_id()]]
        lines += [["etag", host, etag] for host, etag in state.etags.items()]
        lines += [["peer", node] for node in state.peers]
        lines += [["synced", *span] for span in state.synced]
        lines += [["written", *span] for span in state.written]
        replace_file(self._path, b"".join(map(_encode, lines)))
        return open_append_only(self._path)

    def add_written(self, start: int, end: int) -> None:
        """Record bytes that are in the file, though maybe not on the disk yet."""
        self._append(["written", start, end])

    def add_synced(self, confirmed: Ranges, generation: int) -> None:
        """Record bytes that the disk has confirmed; ignored for bytes of an earlier generation."""
        lines: list[_Line] = [["synced", *span] for span in confirmed]
        with self._lock:
            if generation == self.generation:
                self._write(*lines)

    def add_etag(self, host: str, etag: str) -> None:
        """Record the ETag of the file that a host sends."""
        self._append(["etag", host, etag])

    def add_peer(self, node: str) -> None:
        self._append(["peer", node])

    def _append(self, line: _Line) -> None:
        with self._lock:
            self._write(line)

    def _write(self, *lines: _Line) -> None:
        os.write(self._handle, b"".join(map(_encode, lines)))

    def restart(self) -> None:
        with self._lock:
            self.close()
            self.generation += 1
            self.state = JournalState()
            self._handle = self._rewrite()

    def close(self) -> None:
        os.close(self._handle)


def read_journal(path: Path, size_bytes: int, sha256: str | None) -> JournalState:
    """The state that counts now; an empty one if the journal is about another file."""
    if not path.is_file() or path.is_symlink():
        return JournalState()
    lines = [_decode(line) for line in path.read_bytes().splitlines(keepends=True)]
    if not lines or lines[0] != ["file", size_bytes, sha256]:
        return JournalState()
    state, this_boot = JournalState(), False
    for line in lines[1:]:
        match line:
            case ["boot", str(boot)]:
                this_boot = boot == boot_id()
            case ["synced", int(start), int(end)]:
                state.synced = ranges.add(state.synced, start, end)
            case ["written", int(start), int(end)] if this_boot:
                state.written = ranges.add(state.written, start, end)
            case ["etag", str(host), str(etag)]:
                state.etags[host] = etag
            case ["peer", str(node)]:
                state.peers.add(node)
    return state


@cache
def boot_id() -> str:
    """Identifies this boot of the machine: another one may follow a power cut."""
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip()
    return str(int(psutil.boot_time()))


def _encode(line: _Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _decode(line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line) if line.endswith(b"\n") else []
    except msgspec.DecodeError:
        return []
