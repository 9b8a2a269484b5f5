"""An entry of another node, brought here: which files that takes, and what is known of them."""

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from schemas.errors import Conflict
from schemas.library import VerifyState
from schemas.peers import EntryFiles, KnownFile
from services.downloader.library import inside, records
from services.downloader.library.grouping import DESCRIPTION
from services.downloader.library.meter import Meter
from services.downloader.library.records import FileRecord
from services.downloader.library.verifying import hash_file
from services.downloader.library.walk import Found
from services.downloader.peers.client import PeerClient
from services.downloader.worker.messages import WantedFile


async def listing(finder: PeerClient, key: str, meter: Meter) -> EntryFiles:
    """The files of an entry, when the sha256 of all of them is known there."""
    while True:
        found = await finder.entry(key)
        meter.bytes_total = sum(file.size_bytes for file in found.files)
        meter.add(0)
        if not found.bytes_to_read:
            return found


def missing(root: Path, entry: EntryFiles, meter: Meter) -> list[KnownFile]:
    """What is not here yet; Conflict where another file is in the way. May be asked again."""
    files = []
    for file in entry.files:
        _check_path(file.path)
        if _is_here(root, file, meter):
            meter.bytes_done += file.size_bytes
        else:
            files.append(file)
    return files


def wanted(file: KnownFile) -> WantedFile:
    """A file to be fetched from the nodes that have it."""
    assert file.sha256 is not None
    return WantedFile(size_bytes=file.size_bytes, sha256=file.sha256, path=file.path)


def noted(files: Iterable[KnownFile]) -> dict[str, FileRecord]:
    """What is to be known of them here, too."""
    return {file.path: _record(file) for file in files}


def _record(file: KnownFile) -> FileRecord:
    return FileRecord(
        size_bytes=file.size_bytes,
        sha256=file.sha256 if file.noted else None,
        repo=file.repo,
        revision=file.revision,
        remote=file.remote,
    )


def _check_path(path: str) -> None:
    """A path is another node's text: it leads neither out of the store nor to what that keeps itself."""
    try:
        parts = inside.split(path)
    except ValueError as error:
        raise Conflict(str(error)) from error
    if parts[0].startswith(".") or parts[-1] == records.NAME:
        raise Conflict(f"{path!r} is not a path of a model's file.")


def _is_here(root: Path, file: KnownFile, meter: Meter) -> bool:
    """Whether this very file lies here; a description that was written here stays as it is."""
    try:
        found = inside.stat_of(root, file.path)
    except FileNotFoundError:
        return False
    if file.path.endswith(DESCRIPTION):
        return True
    folder, _, name = file.path.rpartition("/")
    here = records.of(
        Found(file.path, found.st_size, found.st_mtime_ns), records.load(root, folder).files.get(name)
    )
    if here.verified is VerifyState.VERIFIED and here.sha256 == file.sha256:
        return True
    if found.st_size != file.size_bytes or not _has_sha256(root, file, meter):
        raise FileExistsError(file.path)
    return True


def _has_sha256(root: Path, file: KnownFile, meter: Meter) -> bool:
    done_bytes, meter.file = meter.bytes_done, file.path
    sha256, _, modified_ns = hash_file(root, file.path, meter)
    meter.bytes_done = done_bytes
    if sha256 != file.sha256:
        return False
    if file.noted:
        checked = msgspec.structs.replace(_record(file), checked_at=time.time(), checked_ns=modified_ns)
        records.note(root, {file.path: checked})
    return True
