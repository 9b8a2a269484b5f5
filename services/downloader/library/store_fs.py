"""File access below a store's folder that never follows a symbolic link.

Every path component is opened by openat with O_NOFOLLOW relative to its parent. A folder replaced by a link
during the access makes it fail; it never leads out of the store.
"""

import asyncio
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from schemas.errors import Conflict

_FOLDER = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | os.O_CLOEXEC | _NO_LINK | getattr(os, "O_NONBLOCK", 0)
P = ParamSpec("P")
T = TypeVar("T")


class UnsafePath(OSError):
    """The path leads over a symbolic link, or not to a regular file."""


def split_path(path: str) -> tuple[str, ...]:
    """The components of a path relative to a store; ValueError for one that could lead out of it."""
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError(f"{path!r} is not a path in a store.")
    return parts


@contextmanager
def open_folder(root: Path, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """A handle of a folder below root. The root itself may be a link: its owner has configured it."""
    current = os.open(root, _FOLDER)
    try:
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            child = _step(part, current)
            os.close(current)
            current = child
        yield current
    finally:
        os.close(current)


def _step(name: str, parent: int) -> int:
    try:
        return os.open(name, _FOLDER | _NO_LINK, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise UnsafePath(error.errno, "a symbolic link is in the way", name) from error
        raise


@contextmanager
def open_parent(root: Path, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """A handle of the folder that a path is in, and the path's name in it."""
    *parents, name = split_path(path)
    with open_folder(root, parents, create=create) as parent:
        yield parent, name


@contextmanager
def open_file(root: Path, path: str) -> Iterator[BinaryIO]:
    """A regular file below root, open for reading; OSError for anything else."""
    with open_parent(root, path) as (parent, name):
        handle = os.open(name, _FILE, dir_fd=parent)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsafePath(errno.EINVAL, "it is not a regular file", name)
        yield file


def read_file(root: Path, path: str, at_most_bytes: int) -> bytes:
    """The bytes of a small file; OSError if it is larger."""
    with open_file(root, path) as file:
        data = file.read(at_most_bytes + 1)
    if len(data) > at_most_bytes:
        raise OSError(errno.EFBIG, "the file is too large", path)
    return data


def write_file(root: Path, path: str, data: bytes) -> None:
    """Write a small file atomically and durably."""
    with open_parent(root, path) as (parent, name):
        with new_file(parent, name) as unfinished, create_file(parent, unfinished) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(parent)


@contextmanager
def new_file(folder: int, name: str) -> Iterator[str]:
    """A name to write under; it becomes `name` at the end of the block, and nothing stays of a failure."""
    unfinished = f".{secrets.token_hex(8)}.part"
    try:
        yield unfinished
        os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _remove(unfinished, folder)
        raise


def create_file(folder: int, name: str) -> BinaryIO:
    """A new file in an open folder, for writing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NO_LINK
    return os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb")


def remove_file(root: Path, path: str) -> None:
    """Remove a file, or a link itself; nothing happens if there is none."""
    with open_parent(root, path) as (parent, name):
        _remove(name, parent)


def _remove(name: str, parent: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def move_file(root: Path, path: str, to: str) -> None:
    """Rename within the store, creating folders; FileExistsError if the target exists."""
    with open_parent(root, path) as (source, name):
        os.stat(name, dir_fd=source, follow_symlinks=False)
        with open_parent(root, to, create=True) as (target, to_name):
            if _exists_in(target, to_name):
                raise FileExistsError(errno.EEXIST, "the target exists", to)
            os.rename(name, to_name, src_dir_fd=source, dst_dir_fd=target)


def stat_path(root: Path, path: str) -> os.stat_result:
    """Size and time of a path, links not followed."""
    with open_parent(root, path) as (parent, name):
        return os.stat(name, dir_fd=parent, follow_symlinks=False)


def exists(root: Path, path: str) -> bool:
    with suppress(FileNotFoundError), open_parent(root, path) as (parent, name):
        return _exists_in(parent, name)
    return False


def _exists_in(folder: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def prune_folders(root: Path, parts: Sequence[str]) -> None:
    """Remove this folder and its parents while they are empty; the root stays."""
    for depth in range(len(parts), 0, -1):
        try:
            with open_folder(root, parts[: depth - 1]) as parent:
                os.rmdir(parts[depth - 1], dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError:
            return


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking `work` in a thread; an OSError becomes Conflict, but for FileExistsError."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except FileExistsError:
        raise
    except OSError as error:
        raise Conflict(disk_error(error)) from error


def disk_error(error: OSError) -> str:
    """The reason of a failed disk access, a sentence."""
    name = f"{error.filename}: " if isinstance(error.filename, str) else ""
    if isinstance(error, UnsafePath):
        return f"{name}a symbolic link is in the way; links are not followed in a store."
    return f"{name}{error.strerror or type(error).__name__}."
