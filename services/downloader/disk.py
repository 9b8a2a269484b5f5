"""What a transfer needs from the file system: room, durable renames, hashes of what is there."""

import hashlib
import os
import shutil
from pathlib import Path

from services.downloader.errors import TransferError, disk_error

CHUNK_BYTES = 1024 * 1024
MARGIN_BYTES = 512 * 1024 * 1024
"""Kept free on the disk unless a job says otherwise."""
PART_SUFFIX = ".part"
JOURNAL_SUFFIX = ".jrnl"
"""No suffix is longer than the first: `modelyard.paths` leaves room for it."""
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def free_bytes(folder: Path) -> int:
    """What is free on folder's disk; it may not exist yet."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    return shutil.disk_usage(existing).free


def require_free(folder: Path, needed_bytes: int, margin_bytes: int, others_bytes: int = 0) -> None:
    """Raise disk_full if needed_bytes do not fit on the disk beside the margin and what others need."""
    free = free_bytes(folder)
    if needed_bytes > 0 and needed_bytes + others_bytes + margin_bytes > free:
        others = f", other downloads still need {_gib(others_bytes)}" if others_bytes else ""
        raise TransferError(
            "disk_full",
            f"The download needs {_gib(needed_bytes)}{others} and {_gib(margin_bytes)} are kept free, "
            f"but the disk has only {_gib(free)} left. Free some space.",
        )


def require_margin(folder: Path, margin_bytes: int) -> None:
    """Raise disk_full if somebody else has taken what was to be kept free; half of it is left to chance."""
    free = free_bytes(folder)
    if free < margin_bytes // 2:
        raise TransferError(
            "disk_full",
            f"The disk has only {_gib(free)} left; what has arrived is kept. Free some space.",
        )


def part_path(dest: Path) -> Path:
    """Where the bytes of dest lie until they are all there and proven."""
    return dest.with_name(dest.name + PART_SUFFIX)


def journal_path(dest: Path) -> Path:
    """Where it is written down which of them are there."""
    return dest.with_name(dest.name + JOURNAL_SUFFIX)


def file_bytes(path: Path) -> int | None:
    """The size of a regular file, None if there is none."""
    return path.stat().st_size if path.is_file() else None


def open_part(path: Path, size_bytes: int) -> int:
    """A handle on a file of this size, made if it is not there; a link in its place is not followed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _NO_LINKS, 0o644)
    os.truncate(handle, size_bytes)
    return handle


def append_only(path: Path) -> int:
    """A handle that writes behind what is there."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | _NO_LINKS, 0o644)


def replace_file(path: Path, content: bytes) -> None:
    """Put a small file in place of the one that is there: the old or the new one survives a power cut."""
    fresh = path.with_name(path.name[:-1] + "~")
    fresh.unlink(missing_ok=True)
    handle = append_only(fresh)
    try:
        os.write(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.replace(path)


def hash_file(path: Path) -> str:
    """The sha256 of a whole file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blob_sha1(path: Path) -> str:
    """Git's name for the bytes of a file, 40 hex digits."""
    with path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def publish(part: Path, dest: Path) -> None:
    """Give a finished part its name; after this it survives a power cut."""
    try:
        _sync(part)
        part.replace(dest)
        sync_folder(dest.parent)
    except OSError as error:
        raise disk_error(error, dest.name) from error


def forget_part(dest: Path) -> None:
    """Take away what has arrived of dest, the journal first: it must not speak of bytes that are gone."""
    try:
        journal_path(dest).unlink(missing_ok=True)
        part_path(dest).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, dest.name) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    if os.name != "nt":
        _sync(folder)


def forget_cached(handle: int, start: int, end: int) -> None:
    """Let go of the memory that caches these bytes, where the system can: running models need it more."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_DONTNEED)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.2f} GiB"
