"""Reaching things under a store's folder one step at a time, so that no symbolic link is ever followed.

Every step is an openat with O_NOFOLLOW relative to the folder before it. A link that somebody puts in the
place of a folder while we look makes the step fail; it never leads elsewhere.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | os.O_CLOEXEC | _NO_LINK | getattr(os, "O_NONBLOCK", 0)


class Unsafe(OSError):
    """The path leads over a symbolic link or to something that is no file."""


def split(path: str) -> tuple[str, ...]:
    """The steps of a path relative to a store; ValueError for one that could lead out of it."""
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError(f"{path!r} is not a path in a store.")
    return parts


@contextmanager
def folder(root: Path, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """A handle on a folder under root. The root itself may be a link: it is the owner's own setting."""
    here = os.open(root, _FOLDER)
    try:
        for part in parts:
            if create:
                _make(part, here)
            below = _step(part, here)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


def _make(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        return


def _step(name: str, parent: int) -> int:
    try:
        return os.open(name, _FOLDER | _NO_LINK, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, parent):
            raise Unsafe(error.errno, "a symbolic link is in the way", name) from error
        raise


def _is_link(name: str, parent: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


@contextmanager
def opened(root: Path, path: str) -> Iterator[BinaryIO]:
    """A regular file under root, for reading; OSError for anything else."""
    *parents, name = split(path)
    with folder(root, parents) as parent:
        handle = os.open(name, _FILE, dir_fd=parent)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unsafe(errno.EINVAL, "it is no file", name)
        yield file


def read(root: Path, path: str, at_most_bytes: int) -> bytes:
    """The bytes of a small file; OSError if it is larger."""
    with opened(root, path) as file:
        data = file.read(at_most_bytes + 1)
    if len(data) > at_most_bytes:
        raise OSError(errno.EFBIG, "the file is too large", path)
    return data


def write(root: Path, path: str, data: bytes) -> None:
    """Put a small file in place, whole or not at all, also across a power cut."""
    *parents, name = split(path)
    with folder(root, parents) as parent:
        unfinished = f".{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NO_LINK
        try:
            with os.fdopen(os.open(unfinished, flags, 0o644, dir_fd=parent), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, name, src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)
        except BaseException:
            _remove(unfinished, parent)
            raise


def remove(root: Path, path: str) -> None:
    """Take one name away, a link itself and not what it leads to; nothing happens if it is not there."""
    *parents, name = split(path)
    with folder(root, parents) as parent:
        _remove(name, parent)


def _remove(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return


def move(root: Path, path: str, to: str) -> None:
    """Rename within the store, making folders on the way; FileExistsError rather than replace anything."""
    *parents, name = split(path)
    with folder(root, parents) as source:
        os.stat(name, dir_fd=source, follow_symlinks=False)
        _move(name, source, root, to)


def _move(name: str, source: int, root: Path, to: str) -> None:
    *to_parents, to_name = split(to)
    with folder(root, to_parents, create=True) as target:
        if _exists(to_name, target):
            raise FileExistsError(errno.EEXIST, "there is something of this name", to)
        os.rename(name, to_name, src_dir_fd=source, dst_dir_fd=target)


def stat_of(root: Path, path: str) -> os.stat_result:
    """Size and time of what has this name, links not followed."""
    *parents, name = split(path)
    with folder(root, parents) as parent:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)


def exists(root: Path, path: str) -> bool:
    """Whether this name is there, whatever it is."""
    try:
        stat_of(root, path)
    except FileNotFoundError:
        return False
    return True


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def prune(root: Path, parts: Sequence[str]) -> None:
    """Take away this folder and those above it, as long as they are empty; the root stays."""
    for depth in range(len(parts), 0, -1):
        try:
            with folder(root, parts[: depth - 1]) as parent:
                os.rmdir(parts[depth - 1], dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError:
            return
