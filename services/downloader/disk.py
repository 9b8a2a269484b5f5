"""What a transfer needs from the file system: room, durable renames, hashes of what is there."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from services.downloader.errors import TransferError, disk_error

CHUNK_BYTES = 1024 * 1024
MARGIN_BYTES = 512 * 1024 * 1024
"""Kept free on the disk unless a job says otherwise."""


def require_free(folder: Path, needed_bytes: int, margin_bytes: int) -> None:
    """Raise disk_full if needed_bytes and the margin do not fit on folder's disk; it may not exist yet."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > 0 and needed_bytes + margin_bytes > free_bytes:
        raise TransferError(
            "disk_full",
            f"The download needs {_gib(needed_bytes)} and {_gib(margin_bytes)} are kept free, "
            f"but the disk has only {_gib(free_bytes)} left. Free some space.",
        )


def part_path(dest: Path) -> Path:
    """Where the bytes of dest lie until they are all there and proven."""
    return dest.with_name(dest.name + ".part")


def file_bytes(path: Path) -> int | None:
    """The size of a regular file, None if there is none."""
    return path.stat().st_size if path.is_file() else None


def hash_file(path: Path, on_bytes: Callable[[int], None]) -> "hashlib._Hash":
    """The sha256 of a whole file, still open for more bytes; on_bytes hears how many are read so far."""
    digest = hashlib.sha256()
    done_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done_bytes += len(chunk)
            on_bytes(done_bytes)
    return digest


def publish(part: Path, dest: Path) -> None:
    """Give a finished part its name; after this it survives a power cut."""
    try:
        _sync(part)
        part.replace(dest)
        _sync(dest.parent)
    except OSError as error:
        raise disk_error(error, dest.name) from error


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.2f} GiB"
