"""Walks a store: names, sizes and times. Opens no file and follows no link."""

import os
import re
from pathlib import Path
from typing import NamedTuple

RECORD = ".modelyard.json"
"""Name of a folder's record of its files."""
MAX_DEPTH = 32
"""Nesting of folders; deeper ones are skipped and reported."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PARTIAL = re.compile(
    r"\.(part|partial|incomplete|tmp|crdownload|aria2|download|!qb|jrnl|jrn~)(\.[^.]*)?$", re.IGNORECASE
)
"""Names of incomplete files, and of the state files that programs write beside them."""


class ScannedFile(NamedTuple):
    """A file; `path` is relative to the store."""

    path: str
    size_bytes: int
    modified_ns: int

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class ScannedLink(NamedTuple):
    path: str
    target: str
    modified_ns: int


class StoreTree(NamedTuple):
    files: list[ScannedFile]
    links: list[ScannedLink]
    partials: list[ScannedFile]
    """Incomplete files."""
    skipped: list[str]
    """Printable paths of what was skipped."""


def walk(root: Path) -> StoreTree:
    """Walk the store; OSError if that cannot be read."""
    tree = StoreTree([], [], [], [])
    _walk(os.open(root, _FOLDER), "", tree, 0)
    return tree


def _walk(handle: int, prefix: str, tree: StoreTree, depth: int) -> None:
    """Add what is in an open folder, and close it."""
    try:
        with os.scandir(handle) as entries:
            listed = list(entries)
        names = {entry.name for entry in listed}
        for entry in listed:
            name = entry.name
            # Our trash, and the folders of other systems at the top of a disk.
            if depth == 0 and name.startswith((".", "lost+found", "$")) and name != RECORD:
                continue
            if not name.isprintable() or "\\" in name:
                tree.skipped.append(f"{prefix}{ascii(name)[1:-1]}")
                continue
            _add_entry(entry, handle, prefix, tree, depth, unfinished=f"{name}.aria2" in names)
    finally:
        os.close(handle)


def _add_entry(
    entry: "os.DirEntry[str]", handle: int, prefix: str, tree: StoreTree, depth: int, *, unfinished: bool
) -> None:
    path = prefix + entry.name
    try:
        if entry.is_symlink():
            status = entry.stat(follow_symlinks=False)
            target = os.readlink(entry.name, dir_fd=handle)
            tree.links.append(
                ScannedLink(path, os.fsencode(target).decode(errors="replace"), status.st_mtime_ns)
            )
        elif entry.is_dir(follow_symlinks=False):
            if depth >= MAX_DEPTH:
                tree.skipped.append(path)
            else:
                below = os.open(entry.name, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
                _walk(below, f"{path}/", tree, depth + 1)
        elif entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if unfinished or _PARTIAL.search(entry.name):
                tree.partials.append(ScannedFile(path, _allocated_bytes(status), status.st_mtime_ns))
            else:
                tree.files.append(ScannedFile(path, status.st_size, status.st_mtime_ns))
    except FileNotFoundError:
        return  # Removed during the walk.
    except OSError:
        tree.skipped.append(path)


def _allocated_bytes(status: os.stat_result) -> int:
    # An incomplete file may be sparse.
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)
