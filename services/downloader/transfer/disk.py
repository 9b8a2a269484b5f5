"""The file system for transfers: free space, parts, durable renames."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from modelyard.text import format_size
from services.downloader.errors import TransferError, disk_errors

MARGIN_BYTES = 512 * 1024 * 1024
"""Left free on the disk unless a job sets another margin."""
PART_SUFFIX = ".part"
JOURNAL_SUFFIX = ".jrnl"
"""No suffix is longer than PART_SUFFIX: `modelyard.host.paths` reserves room for that one."""
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which need not exist yet."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    return shutil.disk_usage(existing).free


def require_free(folder: Path, needed_bytes: int, margin_bytes: int, others_bytes: int = 0) -> None:
    """Raise disk_full if needed_bytes do not fit beside the margin and what other downloads need."""
    free = free_bytes(folder)
    if needed_bytes > 0 and needed_bytes + others_bytes + margin_bytes > free:
        others = f", other downloads still need {format_size(others_bytes)}" if others_bytes else ""
        raise TransferError(
            "disk_full",
            f"The download needs {format_size(needed_bytes)}{others} and {format_size(margin_bytes)} "
            f"are kept free, but the disk has only {format_size(free)} left. Free some space.",
        )


def require_margin(folder: Path, margin_bytes: int) -> None:
    """Raise disk_full if less than half of the margin is left, since other programs write to the disk too."""
    free = free_bytes(folder)
    if free < margin_bytes // 2:
        raise TransferError(
            "disk_full",
            f"The disk has only {format_size(free)} left; what has arrived stays. Free some space.",
        )


def part_path(dest: Path) -> Path:
    """The file for the bytes of dest until they are complete and verified."""
    return dest.with_name(dest.name + PART_SUFFIX)


def journal_path(dest: Path) -> Path:
    """The file that lists which bytes of the part have arrived."""
    return dest.with_name(dest.name + JOURNAL_SUFFIX)


def file_bytes(path: Path) -> int | None:
    """The size of a regular file, None if there is none."""
    return path.stat().st_size if path.is_file() else None


def open_part(path: Path, size_bytes: int) -> int:
    """A handle on a file of this size, created if missing; a symbolic link is not followed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _NO_LINKS, 0o644)
    os.truncate(handle, size_bytes)
    return handle


def open_append_only(path: Path) -> int:
    """A handle that appends; a symbolic link is not followed."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | _NO_LINKS, 0o644)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a small file atomically: the old or the new content survives a power cut."""
    temporary = path.with_name(path.name[:-1] + "~")
    temporary.unlink(missing_ok=True)
    with os.fdopen(open_append_only(temporary), "ab", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    temporary.replace(path)


def publish(part: Path, dest: Path) -> None:
    """Sync a complete part and rename it to dest; afterwards it survives a power cut."""
    with disk_errors(dest.name):
        _sync(part)
        part.replace(dest)
        sync_folder(dest.parent)


def delete_part(dest: Path) -> None:
    """Delete the part of dest, its journal first: a journal must never list bytes that are deleted."""
    with disk_errors(dest.name):
        journal_path(dest).unlink(missing_ok=True)
        part_path(dest).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    if os.name != "nt":
        _sync(folder)


def drop_page_cache(handle: int, start: int, end: int) -> None:
    """Release the page cache of these bytes where the system can: running models need the memory more."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


CHUNK_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def sha256_of(file: BinaryIO, on_chunk: Callable[[int], None] = lambda _: None) -> str:
    """The sha256 of an open file, 64 hex digits; `on_chunk` gets the size of every chunk and may raise."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        on_chunk(len(chunk))
    return digest.hexdigest()


def blob_sha1_of(file: BinaryIO) -> str:
    """Git's blob hash of an open file, 40 hex digits."""
    size_bytes = os.fstat(file.fileno()).st_size
    digest = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
