"""Everything that lies in a store: names, sizes and times. No file is opened and no link followed."""

import os
import re
from pathlib import Path
from typing import NamedTuple

RECORD = ".modelyard.json"
"""What is known of the files of a folder lies beside them."""
MAX_DEPTH = 32
"""Folders within folders; deeper ones are passed over, and told."""
_PARTIAL = re.compile(
    r"\.(part|partial|incomplete|tmp|crdownload|aria2|download|!qb|jrnl|jrn~)(\.[^.]*)?$", re.IGNORECASE
)
"""What programs call a file that is not all there, and the notes that they keep beside it."""


class Found(NamedTuple):
    """One file; `path` is relative to the store."""

    path: str
    size_bytes: int
    modified_ns: int

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Link(NamedTuple):
    """A symbolic link, and where it leads."""

    path: str
    target: str
    modified_ns: int


class Tree(NamedTuple):
    """What a walk found."""

    files: list[Found]
    links: list[Link]
    partials: list[Found]
    """Files that are not all there."""
    odd: list[str]
    """What was passed over, as a person may be shown it."""


def walk(root: Path) -> Tree:
    """Walk the store; OSError if that cannot be read."""
    tree = Tree([], [], [], [])
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _walk(handle, "", tree, 0)
    finally:
        os.close(handle)
    return tree


def _walk(handle: int, prefix: str, tree: Tree, depth: int) -> None:
    with os.scandir(handle) as entries:
        listed = list(entries)
    written = {entry.name for entry in listed}
    for entry in listed:
        name = entry.name
        # The trash is ours, and at the top of a disk other systems keep folders like it.
        if depth == 0 and name.startswith((".", "lost+found", "$")) and name != RECORD:
            continue
        if not _is_plain(name):
            tree.odd.append(f"{prefix}{ascii(name)[1:-1]}")
            continue
        _look(entry, handle, prefix, tree, depth, unfinished=f"{name}.aria2" in written)


def _look(
    entry: "os.DirEntry[str]", handle: int, prefix: str, tree: Tree, depth: int, *, unfinished: bool
) -> None:
    path = prefix + entry.name
    try:
        if entry.is_symlink():
            found = entry.stat(follow_symlinks=False)
            target = os.readlink(entry.name, dir_fd=handle)
            tree.links.append(Link(path, os.fsencode(target).decode(errors="replace"), found.st_mtime_ns))
        elif entry.is_dir(follow_symlinks=False):
            _descend(entry.name, handle, path, tree, depth)
        elif entry.is_file(follow_symlinks=False):
            found = entry.stat(follow_symlinks=False)
            partial = unfinished or _PARTIAL.search(entry.name)
            if partial:
                tree.partials.append(Found(path, _taken_bytes(found), found.st_mtime_ns))
            else:
                tree.files.append(Found(path, found.st_size, found.st_mtime_ns))
    except FileNotFoundError:
        return  # It went away while we looked.
    except OSError:
        tree.odd.append(path)


def _taken_bytes(found: os.stat_result) -> int:
    """What a file takes of the disk: one that is still coming may be mostly holes."""
    blocks: int | None = getattr(found, "st_blocks", None)
    return found.st_size if blocks is None else min(found.st_size, blocks * 512)


def _descend(name: str, handle: int, path: str, tree: Tree, depth: int) -> None:
    if depth >= MAX_DEPTH:
        tree.odd.append(path)
        return
    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
    try:
        _walk(below, path + "/", tree, depth + 1)
    finally:
        os.close(below)


def _is_plain(name: str) -> bool:
    """A name that can be written into JSON and shown on a screen."""
    return name.isprintable() and "\\" not in name and "\x7f" not in name
