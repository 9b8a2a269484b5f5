"""Records of files (source, sha256, checks): a small JSON file in their folder, which moves along with it."""

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from modelyard.bus import logs
from schemas.base import Record
from schemas.library import EntryFile, VerifyState
from services.downloader.library import store_fs
from services.downloader.library.walk import RECORD, ScannedFile
from services.downloader.transfer.disk import is_sha256
from services.downloader.worker.messages import Resolved

log = logs.get(__name__)

NAME = RECORD
_MAX_BYTES = 8 * 1024 * 1024
_write_lock = threading.Lock()
"""A transfer, a check and an import may update the record of one folder at the same time."""
_WORST_FIRST = (VerifyState.DAMAGED, VerifyState.UNKNOWN, VerifyState.UNVERIFIED, VerifyState.VERIFIED)


class FileRecord(Record):
    size_bytes: int
    sha256: str | None = None
    """The expected sha256: as the hub lists it, or as computed at the first check."""
    repo: str | None = None
    """Its source; then `size_bytes` is the expected size too."""
    revision: str | None = None
    remote: str | None = None
    """Its path in that repository."""
    downloaded_at: float | None = None
    checked_at: float | None = None
    """Time of the last check of all its bytes."""
    checked_ns: int = 0
    """Its modification time at that check; a file written since is unverified."""
    damaged: bool = False
    """Its sha256 differed at that check."""


class FolderRecord(Record):
    """Contents of the JSON file: records by file name."""

    files: dict[str, FileRecord] = msgspec.field(default_factory=dict)


def record_path(folder: str) -> str:
    return f"{folder}/{NAME}" if folder else NAME


def load(root: Path, folder: str) -> FolderRecord:
    """The record of a folder; empty where there is none or it is unreadable."""
    try:
        data = store_fs.read_file(root, record_path(folder), _MAX_BYTES)
        return msgspec.json.decode(data, type=FolderRecord)
    except FileNotFoundError:
        return FolderRecord()
    except (OSError, ValueError) as error:
        log.warning("file_record_unreadable", folder=folder, error=str(error))
        return FolderRecord()


def update(root: Path, changes: Mapping[str, FileRecord | None]) -> None:
    """Update records by path; None deletes one."""
    folders: dict[str, dict[str, FileRecord | None]] = {}
    for path, record in changes.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = record
    with _write_lock:
        for folder, files in folders.items():
            before = load(root, folder).files
            after = {name: record for name, record in {**before, **files}.items() if record is not None}
            if after and after != before:
                data = msgspec.json.encode(FolderRecord(files=after)) + b"\n"
                store_fs.write_file(root, record_path(folder), data)
            elif before and not after:
                store_fs.remove_file(root, record_path(folder))


def entry_file(file: ScannedFile, record: FileRecord | None) -> EntryFile:
    """The file as the library shows it."""
    return EntryFile(
        path=file.path,
        size_bytes=file.size_bytes,
        modified_at=file.modified_ns / 1e9,
        sha256=expected_sha256(record),
        verified=_verified(file, record),
        verified_at=record.checked_at if record else None,
    )


def expected_sha256(record: FileRecord | None) -> str | None:
    """The recorded sha256 if it is well-formed: a record may come from elsewhere with its folder."""
    sha256 = record.sha256 if record else None
    return sha256 if sha256 and is_sha256(sha256) else None


def _verified(file: ScannedFile, record: FileRecord | None) -> VerifyState:
    if record is None or expected_sha256(record) is None:
        return VerifyState.UNKNOWN
    if file.size_bytes != record.size_bytes:
        return VerifyState.DAMAGED if record.repo else VerifyState.UNKNOWN
    if record.checked_at is None or record.checked_ns != file.modified_ns:
        return VerifyState.UNVERIFIED
    return VerifyState.DAMAGED if record.damaged else VerifyState.VERIFIED


def worst(files: Iterable[EntryFile]) -> VerifyState:
    """The state that holds for all files together."""
    return min((file.verified for file in files), key=_WORST_FIRST.index, default=VerifyState.UNKNOWN)


def record_download(root: Path, repo: str, resolved: Resolved) -> None:
    """Update the records of files that a transfer has fetched and verified."""
    now, changes = time.time(), {}
    for file in resolved.files:
        path = f"{repo}/{file.path}"
        try:
            modified_ns = store_fs.stat_path(root, path).st_mtime_ns
        except OSError as error:
            log.warning("file_record_failed", path=path, error=str(error))
            continue
        changes[path] = FileRecord(
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            repo=repo,
            revision=resolved.commit,
            remote=file.path,
            downloaded_at=now,
            checked_at=now if file.sha256 else None,
            checked_ns=modified_ns,
        )
    try:
        update(root, changes)
    except OSError as error:
        # The model is usable without its record, only unverified.
        log.warning("file_record_failed", repo=repo, error=str(error))
