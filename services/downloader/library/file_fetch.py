"""Files fetched into a store by a transfer worker: repairs, and copies of entries from other nodes."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from schemas.errors import Conflict
from schemas.library import VerifyState
from schemas.peers import EntryFiles, KnownFile
from services.downloader.library import records, store_fs
from services.downloader.library.grouping import DESCRIPTION
from services.downloader.library.integrity import hash_file
from services.downloader.library.jobs import JobProgress
from services.downloader.library.walk import ScannedFile
from services.downloader.peers.client import PeerClient
from services.downloader.worker import messages


async def await_listing(peers: PeerClient, key: str, progress: JobProgress) -> EntryFiles:
    """The files of an entry, once the other node has the sha256 of each."""
    while True:
        entry = await peers.entry(key)
        progress.bytes_total = sum(file.size_bytes for file in entry.files)
        progress.add(0)
        if not entry.bytes_to_read:
            return entry


def missing_here(root: Path, entry: EntryFiles, progress: JobProgress) -> list[KnownFile]:
    """The files this store lacks; Conflict where another file is in the way. Idempotent."""
    files = []
    for file in entry.files:
        _check_path(file.path)
        if _is_stored(root, file, progress):
            progress.bytes_done += file.size_bytes
        else:
            files.append(file)
    return files


def wanted_file(file: KnownFile) -> messages.WantedFile:
    """The transfer of a file from the nodes that have it."""
    assert file.sha256 is not None
    return messages.WantedFile(size_bytes=file.size_bytes, sha256=file.sha256, path=file.path)


def record_of(file: KnownFile) -> records.FileRecord:
    """Its record before it is verified."""
    return records.FileRecord(
        size_bytes=file.size_bytes,
        sha256=file.sha256 if file.noted else None,
        repo=file.repo,
        revision=file.revision,
        remote=file.remote,
    )


def _check_path(path: str) -> None:
    # The path comes from another node: it must not lead out of the store, nor to the store's own files.
    try:
        parts = store_fs.split_path(path)
    except ValueError as error:
        raise Conflict(str(error)) from error
    if parts[0].startswith(".") or parts[-1] == records.NAME:
        raise Conflict(f"{path!r} is not a path of a model file.")


def _is_stored(root: Path, file: KnownFile, progress: JobProgress) -> bool:
    # A description written on this node stays.
    try:
        status = store_fs.stat_path(root, file.path)
    except FileNotFoundError:
        return False
    if file.path.endswith(DESCRIPTION):
        return True
    folder, _, name = file.path.rpartition("/")
    here = records.entry_file(
        ScannedFile(file.path, status.st_size, status.st_mtime_ns), records.load(root, folder).files.get(name)
    )
    if here.verified is VerifyState.VERIFIED and here.sha256 == file.sha256:
        return True
    if status.st_size != file.size_bytes or not _has_sha256(root, file, progress):
        raise FileExistsError(file.path)
    return True


def _has_sha256(root: Path, file: KnownFile, progress: JobProgress) -> bool:
    done_bytes, progress.file = progress.bytes_done, file.path
    sha256, _, modified_ns = hash_file(root, file.path, progress)
    progress.bytes_done = done_bytes
    if sha256 != file.sha256:
        return False
    if file.noted:
        checked = msgspec.structs.replace(record_of(file), checked_at=time.time(), checked_ns=modified_ns)
        records.update(root, {file.path: checked})
    return True


async def fetch_files(
    job: messages.FilesJob,
    log_path: Path,
    peers: PeerClient,
    recorded: Mapping[str, records.FileRecord],
    progress: JobProgress,
) -> None:
    """Fetch the files of a job and record each that is verified; Conflict if it fails."""
    present_bytes = progress.bytes_done
    try:
        async with messages.transfer_worker(job, log_path) as worker:
            async for message in worker.messages():
                progress.add(0)
                match message:
                    case messages.TransferProgress():
                        progress.file, progress.bytes_done = message.file, present_bytes + message.bytes_done
                    case messages.Received():
                        progress.received = message.received
                    case messages.FileVerified():
                        path = message.file
                        await asyncio.to_thread(_record_verified, Path(job.store_root), path, recorded[path])
                    case messages.FindFilePeers() | messages.BlacklistPeer():
                        await peers.handle(message, worker.send)
                    case messages.Failed():
                        raise Conflict(message.message)
    except messages.TransferWorkerDied as error:
        raise Conflict("The transfer was killed; start it again, and it continues.") from error


def _record_verified(root: Path, path: str, record: records.FileRecord) -> None:
    now, modified_ns = time.time(), store_fs.stat_path(root, path).st_mtime_ns
    verified = msgspec.structs.replace(
        record,
        checked_at=now if record.sha256 else None,
        checked_ns=modified_ns if record.sha256 else 0,
        downloaded_at=now if record.repo else None,
        damaged=False,
    )
    records.update(root, {path: verified})
