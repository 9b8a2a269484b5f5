"""The journal beside a part file: which bytes have arrived, written so that it never claims too much.

One JSON array a line, only ever appended. `written` bytes are safe from the death of our process, `synced`
ones also from a power cut: such a line is written after the disk has confirmed the bytes before it. So after
a reboot only `synced` lines count. A line that does not end, or is no JSON, was being written at the end: it
is passed over.
"""

import os
import threading
from functools import cache
from pathlib import Path

import msgspec

from services.downloader import ranges
from services.downloader.disk import append_only, replace_file
from services.downloader.ranges import Range, Ranges

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_Line = list[str | int | None]


class Found(msgspec.Struct, kw_only=True):
    """What an earlier process left."""

    written: Ranges = ()
    synced: Ranges = ()
    etags: dict[str, str] = msgspec.field(default_factory=dict)
    """By host: another one would mean another file."""
    givers: set[str] = msgspec.field(default_factory=set)
    """Nodes that gave some of the bytes."""

    @property
    def arrived(self) -> Ranges:
        """All that may be relied on now."""
        both = self.written
        for each in self.synced:
            both = ranges.add(both, *each)
        return both


class Journal:
    """An open journal; more than one thread may append."""

    def __init__(self, path: Path, size_bytes: int, sha256: str | None) -> None:
        self._head = _head(size_bytes, sha256)
        self._path = path
        self.found = read(path, size_bytes, sha256)
        self._turn = threading.Lock()
        self.life = 0
        """Another one after each restart."""
        self._handle = self._begin()

    def _begin(self) -> int:
        """Leave only what counts, and go on behind it."""
        found = self.found
        lines: list[_Line] = [self._head, ["boot", boot_id()]]
        lines += [["etag", host, etag] for host, etag in found.etags.items()]
        lines += [["giver", node] for node in found.givers]
        lines += [_range("synced", each) for each in found.synced]
        lines += [_range("written", each) for each in found.written]
        replace_file(self._path, b"".join(map(_encode, lines)))
        return append_only(self._path)

    def written(self, start: int, end: int) -> None:
        """These bytes are in the file, though maybe not on the disk yet."""
        self._append(_range("written", (start, end)))

    def synced(self, confirmed: Ranges, life: int) -> None:
        """The disk has confirmed these bytes; in an earlier life they were others, and do not count."""
        with self._turn:
            if life == self.life:
                self._write(*(_range("synced", each) for each in confirmed))

    def etag(self, host: str, etag: str) -> None:
        """What a host calls the version of the file that it sends."""
        self._append(["etag", host, etag])

    def giver(self, node: str) -> None:
        """This node gives bytes from now on."""
        self._append(["giver", node])

    def _append(self, line: _Line) -> None:
        with self._turn:
            self._write(line)

    def _write(self, *lines: _Line) -> None:
        os.write(self._handle, b"".join(map(_encode, lines)))

    def restart(self) -> None:
        """Nothing has arrived."""
        with self._turn:
            self.close()
            self.life += 1
            self.found = Found()
            self._handle = self._begin()

    def close(self) -> None:
        os.close(self._handle)


def read(path: Path, size_bytes: int, sha256: str | None) -> Found:
    """What counts of a journal; nothing if it is about another file."""
    if not path.is_file() or path.is_symlink():
        return Found()
    lines = [_decode(line) for line in path.read_bytes().splitlines(keepends=True)]
    if not lines or lines[0] != _head(size_bytes, sha256):
        return Found()
    found, this_boot = Found(), False
    for line in lines[1:]:
        match line:
            case ["boot", str(boot)]:
                this_boot = boot == boot_id()
            case ["synced", int(start), int(end)]:
                found.synced = ranges.add(found.synced, start, end)
            case ["written", int(start), int(end)] if this_boot:
                found.written = ranges.add(found.written, start, end)
            case ["etag", str(host), str(etag)]:
                found.etags[host] = etag
            case ["giver", str(node)]:
                found.givers.add(node)
    return found


def _head(size_bytes: int, sha256: str | None) -> _Line:
    return ["file", size_bytes, sha256]


@cache
def boot_id() -> str:
    """What tells this run of the machine from the one before a power cut."""
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip()
    import psutil

    return str(int(psutil.boot_time()))


def _range(kind: str, each: Range) -> _Line:
    return [kind, each[0], each[1]]


def _encode(line: _Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _decode(line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line) if line.endswith(b"\n") else []
    except msgspec.DecodeError:
        return []
