"""Single files fetched into a store by a transfer worker, and recorded beside them."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from schemas.errors import Conflict
from services.downloader.library import records, store_fs
from services.downloader.library.job_progress import JobProgress
from services.downloader.peers.client import PeerClient
from services.downloader.worker.messages import (
    BlacklistPeer,
    Failed,
    FilesJob,
    FileVerified,
    FindFilePeers,
    Received,
    TransferProgress,
)
from services.downloader.worker.process import TransferWorkerDied, transfer_worker


async def fetch_files(
    job: FilesJob,
    log_path: Path,
    peers: PeerClient,
    recorded: Mapping[str, records.FileRecord],
    progress: JobProgress,
) -> None:
    """Fetch the files of a job and record each that is verified; Conflict if it fails."""
    present_bytes = progress.bytes_done
    try:
        async with transfer_worker(job, log_path) as worker:
            async for message in worker.messages():
                progress.add(0)
                match message:
                    case TransferProgress():
                        progress.file, progress.bytes_done = message.file, present_bytes + message.bytes_done
                    case Received():
                        progress.received = message.received
                    case FileVerified():
                        path = message.file
                        await asyncio.to_thread(_record, Path(job.store_root), path, recorded[path])
                    case FindFilePeers() | BlacklistPeer():
                        await peers.handle(message, worker.send)
                    case Failed():
                        raise Conflict(message.message)
    except TransferWorkerDied as error:
        raise Conflict("The transfer was killed; start it again, it goes on where it was.") from error


def _record(root: Path, path: str, record: records.FileRecord) -> None:
    now, modified_ns = time.time(), store_fs.stat_path(root, path).st_mtime_ns
    verified = msgspec.structs.replace(
        record,
        checked_at=now if record.sha256 else None,
        checked_ns=modified_ns if record.sha256 else 0,
        downloaded_at=now if record.repo else None,
        damaged=False,
    )
    records.update(root, {path: verified})
