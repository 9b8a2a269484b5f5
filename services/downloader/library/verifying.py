"""Reading every byte of an entry, and writing down what was found."""

import hashlib
import os
import time
from pathlib import Path

import msgspec

from schemas.library import VerifyState
from services.downloader.library import inside, records
from services.downloader.library.meter import Meter
from services.downloader.library.shelf import Model
from services.downloader.library.walk import Found

_CHUNK_BYTES = 1024 * 1024


def verify(root: Path, model: Model, since: float, meter: Meter) -> None:
    """Check the files that make up a model; a damaged one is in the meter and in the record beside it.

    What was read after `since` is not read again, so that a check that was interrupted goes on.
    """
    files = {file.path: file for file in model.group.files}
    wanted = model.judged
    meter.bytes_total = sum(file.size_bytes for file in wanted)
    for file in wanted:
        meter.file = file.path
        record = model.record.get(file.path)
        if file.verified is VerifyState.VERIFIED and (file.verified_at or 0.0) >= since:
            meter.add(file.size_bytes)
            continue
        if not _check(root, files[file.path], record, meter):
            meter.damaged.append(file.path)


def _check(root: Path, file: Found, record: records.FileRecord | None, meter: Meter) -> bool:
    """Whether a file is as it should be; where nobody knows, it is what should be from now on."""
    sha256, size_bytes, modified_ns = hash_file(root, file.path, meter)
    if record is None or records.wanted_sha256(record) is None or _replaced(record, size_bytes):
        record = records.FileRecord(size_bytes=size_bytes, sha256=sha256)
    damaged = record.sha256 != sha256 or record.size_bytes != size_bytes
    checked = msgspec.structs.replace(record, checked_at=time.time(), checked_ns=modified_ns, damaged=damaged)
    records.note(root, {file.path: checked})
    return not damaged


def _replaced(record: records.FileRecord, size_bytes: int) -> bool:
    """Of a file that did not come from anywhere, another size only says that it is another file."""
    return record.repo is None and record.size_bytes != size_bytes


def hash_file(root: Path, path: str, meter: Meter) -> tuple[str, int, int]:
    """The sha256 of a file, with its size and time; OSError if it was written meanwhile."""
    digest = hashlib.sha256()
    with inside.opened(root, path) as file:
        before = os.fstat(file.fileno())
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            meter.add(len(chunk))
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise OSError(f"{path} was written while it was read; check it again when that is over")
    return digest.hexdigest(), after.st_size, after.st_mtime_ns
