"""Integrity of an entry: verify its bytes, find damaged and missing files."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from schemas.errors import Conflict
from schemas.library import EntryFormat, VerifyState
from services.downloader.library import records, store_fs
from services.downloader.library.jobs import JobProgress
from services.downloader.library.scanner import StoredModel
from services.downloader.library.walk import ScannedFile
from services.downloader.transfer.disk import sha256_of
from services.downloader.worker.messages import WantedFile

Records = Mapping[str, records.FileRecord]


def verify(root: Path, model: StoredModel, since: float, progress: JobProgress) -> None:
    """Verify the files of a model; a damaged one is added to the progress and to its record.

    Files verified after `since` are skipped, so that an interrupted job resumes.
    """
    files = {file.path: file for file in model.group.files}
    wanted = model.checked_files
    progress.bytes_total = sum(file.size_bytes for file in wanted)
    for file in wanted:
        progress.file = file.path
        record = model.record.get(file.path)
        if file.verified is VerifyState.VERIFIED and (file.verified_at or 0.0) >= since:
            progress.add(file.size_bytes)
            continue
        if not _verify_file(root, files[file.path], record, progress):
            progress.damaged.append(file.path)


def _verify_file(
    root: Path, file: ScannedFile, record: records.FileRecord | None, progress: JobProgress
) -> bool:
    # A file without a valid record is recorded as it is now.
    sha256, size_bytes, modified_ns = hash_file(root, file.path, progress)
    # Without a source another size means another file, not a damaged one.
    is_other = record is not None and record.repo is None and record.size_bytes != size_bytes
    if record is None or records.expected_sha256(record) is None or is_other:
        record = records.FileRecord(size_bytes=size_bytes, sha256=sha256)
    damaged = record.sha256 != sha256 or record.size_bytes != size_bytes
    checked = msgspec.structs.replace(record, checked_at=time.time(), checked_ns=modified_ns, damaged=damaged)
    records.update(root, {file.path: checked})
    return not damaged


def hash_file(root: Path, path: str, progress: JobProgress) -> tuple[str, int, int]:
    """Sha256, size and time of a file; OSError if it changed while it was read."""
    with store_fs.open_file(root, path) as file:
        before = os.fstat(file.fileno())
        sha256 = sha256_of(file, progress.add)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise OSError(f"{path} was written while it was read; verify it again when that has ended")
    return sha256, after.st_size, after.st_mtime_ns


def missing_files(model: StoredModel, recorded: Records, present: Iterable[str]) -> list[str]:
    """Missing shards, and files of the folder's record that are absent.

    Of GGUF files only a projector counts: others may have been removed on purpose.
    """
    group = model.group
    absent = {path for path, record in recorded.items() if record.repo} - set(present)
    if group.format is EntryFormat.GGUF:
        absent = {path for path in absent if "mmproj" in path.rpartition("/")[2].lower()}
    return sorted(absent | {f"{group.folder}/{name}" for name in group.missing_shards})


def files_to_repair(model: StoredModel, recorded: Records, present: Iterable[str]) -> list[WantedFile]:
    """The files to fetch again; Conflict where the source of one is unknown."""
    damaged = [file.path for file in model.files if file.verified is VerifyState.DAMAGED]
    paths = damaged + missing_files(model, recorded, present)
    all_records = {**recorded, **model.record}
    return [_wanted(path, all_records.get(path)) for path in paths]


def _wanted(path: str, record: records.FileRecord | None) -> WantedFile:
    sha256 = records.expected_sha256(record)
    if record is None or sha256 is None or not (record.repo and record.revision and record.remote):
        raise Conflict(f"The source of {path} is unknown; fetch the model again: yard pull REPO:QUANT.")
    return WantedFile(
        repo=record.repo,
        revision=record.revision,
        remote=record.remote,
        size_bytes=record.size_bytes,
        sha256=sha256,
        path=path,
    )
