"""What is known about files beyond their bytes: a small JSON file in their folder, which travels with it."""

import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from modelyard.bus import logs
from schemas.base import Record
from schemas.library import EntryFile, VerifyState
from services.downloader.library import inside
from services.downloader.library.walk import RECORD, Found

log = logs.get(__name__)

NAME = RECORD
_MAX_BYTES = 8 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_writing = threading.Lock()
"""A transfer, a check and an import may write about files of one folder."""


class FileRecord(Record):
    """One file, by its name in the folder."""

    size_bytes: int
    sha256: str | None = None
    """What it should be: as the hub lists it, or as it was when it was first read."""
    repo: str | None = None
    """Where it came from; with it the size is what it should be, too."""
    revision: str | None = None
    remote: str | None = None
    """Its path in that repository."""
    downloaded_at: float | None = None
    checked_at: float | None = None
    """When its bytes were read last, all of them."""
    checked_ns: int = 0
    """How old the file was then: one that was written since has to be read again."""
    damaged: bool = False
    """It had another sha256 then."""


class FolderRecord(Record):
    """What lies in the file."""

    files: dict[str, FileRecord] = msgspec.field(default_factory=dict)


def path_in(folder: str) -> str:
    """Where a folder's record lies."""
    return f"{folder}/{NAME}" if folder else NAME


def load(root: Path, folder: str) -> FolderRecord:
    """The record of a folder; empty where there is none or nobody can read it."""
    try:
        data = inside.read(root, path_in(folder), _MAX_BYTES)
        return msgspec.json.decode(data, type=FolderRecord)
    except FileNotFoundError:
        return FolderRecord()
    except (OSError, ValueError) as error:
        log.warning("record_not_read", folder=folder, error=str(error))
        return FolderRecord()


def note(root: Path, changes: Mapping[str, FileRecord | None]) -> None:
    """Write what is now known of these files, by path; None forgets one."""
    folders: dict[str, dict[str, FileRecord | None]] = {}
    for path, record in changes.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = record
    with _writing:
        for folder, files in folders.items():
            _note_in(root, folder, files)


def _note_in(root: Path, folder: str, changes: Mapping[str, FileRecord | None]) -> None:
    before = load(root, folder).files
    after = {name: record for name, record in {**before, **changes}.items() if record is not None}
    if after == before:
        return
    if after:
        inside.write(root, path_in(folder), msgspec.json.encode(FolderRecord(files=after)) + b"\n")
    else:
        inside.remove(root, path_in(folder))


def of(file: Found, record: FileRecord | None) -> EntryFile:
    """A file as it is shown: what it should be, and whether it is."""
    return EntryFile(
        path=file.path,
        size_bytes=file.size_bytes,
        modified_at=file.modified_ns / 1e9,
        sha256=wanted_sha256(record),
        verified=_verified(file, record),
        verified_at=record.checked_at if record else None,
    )


def wanted_sha256(record: FileRecord | None) -> str | None:
    """Records travel with folders, so they are a stranger's text as well."""
    known = record.sha256 if record else None
    return known if known and _SHA256.fullmatch(known) else None


def _verified(file: Found, record: FileRecord | None) -> VerifyState:
    if record is None or wanted_sha256(record) is None:
        return VerifyState.UNKNOWN
    if file.size_bytes != record.size_bytes:
        return VerifyState.DAMAGED if record.repo else VerifyState.UNKNOWN
    if record.checked_at is None or record.checked_ns != file.modified_ns:
        return VerifyState.UNVERIFIED
    return VerifyState.DAMAGED if record.damaged else VerifyState.VERIFIED


_WORST_FIRST = (VerifyState.DAMAGED, VerifyState.UNKNOWN, VerifyState.UNVERIFIED, VerifyState.VERIFIED)


def worst(files: Iterable[EntryFile]) -> VerifyState:
    """Of several files: what can be said of all of them."""
    return min((file.verified for file in files), key=_WORST_FIRST.index, default=VerifyState.UNKNOWN)
