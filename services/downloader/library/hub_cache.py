"""The cache of the Hugging Face Hub library: lists its models, and imports them into a store without copying.

A cached file is a link into `blobs`; large blobs are named by their sha256.
"""

import errno
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from modelyard.host.paths import resolve_inside
from services.downloader.library import records, store_fs
from services.downloader.library.jobs import JobProgress
from services.downloader.transfer.disk import CHUNK_BYTES, is_sha256

if sys.platform == "linux":
    import fcntl

_FICLONE = 0x40049409
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS})
"""Errors of a hard link where a copy may succeed."""


class CachedFile(NamedTuple):
    """A file of a snapshot: its path in the repository, and its blob."""

    path: str
    blob: Path
    size_bytes: int
    sha256: str | None


class Snapshot(NamedTuple):
    """The cached files of a repository at one commit."""

    repo: str
    revision: str
    modified_at: float
    current: bool
    """A branch points to it."""
    files: tuple[CachedFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def cache_folder() -> Path:
    """The cache folder of the Hub library, by its own rules and the environment."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def snapshots(cache: Path) -> list[Snapshot]:
    """Every model in the cache, the newest commit of each first."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        info = scan_cache_dir(cache)
    except CacheNotFound:
        return []
    listed = [
        Snapshot(
            repo=repo.repo_id,
            revision=revision.commit_hash,
            modified_at=revision.last_modified,
            current=bool(revision.refs),
            files=tuple(_files(revision.snapshot_path, repo.repo_path / "blobs")),
        )
        for repo in info.repos
        if repo.repo_type == "model"
        for revision in repo.revisions
    ]
    return sorted(listed, key=lambda snapshot: (snapshot.repo, not snapshot.current, -snapshot.modified_at))


def _files(snapshot: Path, blobs: Path) -> Iterator[CachedFile]:
    # Only files in the repository's own blobs: a link may lead anywhere.
    real_blobs = blobs.resolve()
    for path in sorted(snapshot.rglob("*")):
        blob = path.resolve()
        if not blob.is_file() or blob.parent != real_blobs:
            continue
        sha256 = blob.name if is_sha256(blob.name) else None
        yield CachedFile(path.relative_to(snapshot).as_posix(), blob, blob.stat().st_size, sha256)


def target_path(snapshot: Snapshot, file: CachedFile) -> str:
    """The path of an imported file in the store, the same as of a downloaded one."""
    return f"{snapshot.repo}/{file.path}"


def import_snapshot(root: Path, snapshot: Snapshot, progress: JobProgress) -> None:
    """Import a snapshot; FileExistsError if another file is in the way. Idempotent."""
    progress.bytes_total = snapshot.size_bytes
    for file in snapshot.files:
        path = target_path(snapshot, file)
        progress.file = path
        try:
            resolve_inside(root, path)
        except ValueError as error:
            raise OSError(str(error)) from error
        if _is_imported(root, path, file):
            progress.add(file.size_bytes)
        else:
            _import_file(root, path, snapshot, file, progress)


def _is_imported(root: Path, path: str, file: CachedFile) -> bool:
    # The same file by inode or record; FileExistsError for another one.
    try:
        with store_fs.open_file(root, path) as opened:
            status = os.fstat(opened.fileno())
    except FileNotFoundError:
        return False
    blob = file.blob.stat()
    if (status.st_dev, status.st_ino) == (blob.st_dev, blob.st_ino):
        return True
    folder, _, name = path.rpartition("/")
    record = records.load(root, folder).files.get(name)
    if status.st_size == file.size_bytes and (
        file.sha256 is None or (record and record.sha256 == file.sha256)
    ):
        return True
    raise FileExistsError(path)


def _import_file(root: Path, path: str, snapshot: Snapshot, file: CachedFile, progress: JobProgress) -> None:
    with store_fs.open_parent(root, path, create=True) as (folder, name):
        with store_fs.new_file(folder, name) as unfinished:
            verified = _place(file, unfinished, folder, progress)
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    now = time.time()
    record = records.FileRecord(
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        repo=snapshot.repo,
        revision=snapshot.revision,
        remote=file.path,
        downloaded_at=now,
        checked_at=now if verified else None,
        checked_ns=status.st_mtime_ns if verified else 0,
    )
    records.update(root, {path: record})


def _place(file: CachedFile, name: str, folder: int, progress: JobProgress) -> bool:
    """Link, clone or copy the blob, the cheapest that works; whether its sha256 was verified."""
    try:
        os.link(file.blob, name, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return _copy(file, name, folder, progress)
    progress.linked += 1
    progress.add(file.size_bytes)
    return False


def _copy(file: CachedFile, name: str, folder: int, progress: JobProgress) -> bool:
    with file.blob.open("rb") as source, store_fs.create_file(folder, name) as copy:
        if _clone(source.fileno(), copy.fileno()):
            progress.linked += 1
            progress.add(file.size_bytes)
            return False
        digest = hashlib.sha256()
        while chunk := source.read(CHUNK_BYTES):
            copy.write(chunk)
            digest.update(chunk)
            progress.add(len(chunk))
        copy.flush()
        os.fsync(copy.fileno())
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        raise OSError(f"{file.path} is damaged in the Hub's cache: its sha256 is not that of its name")
    return file.sha256 is not None


def _clone(source: int, copy: int) -> bool:
    """A reflink: the same blocks on disk until one side writes (btrfs, XFS, ZFS)."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError:
        return False
    return True
