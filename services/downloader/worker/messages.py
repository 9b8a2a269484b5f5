"""The protocol of a transfer worker: JSON lines, orders on its stdin and messages on its stdout.

The first line is a job. A download continues with a Go after its Resolved, which may come much later; then
Limits. Queries about other nodes are answered. The end of stdin is the end of the parent, and of the worker.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from msgspec import Struct

from schemas.base import Format
from schemas.hub import Choice
from services.downloader.selection.files import RemoteFile
from services.downloader.transfer.disk import MARGIN_BYTES
from services.downloader.transfer.options import PeerOffer

_LINE_LIMIT_BYTES = 16 * 1024 * 1024


class TransferJob(Struct, frozen=True, kw_only=True):
    """What every job has; `store_root` is absolute. The hub's token comes in the environment, never here."""

    store_root: str
    margin_bytes: int = MARGIN_BYTES
    segments: int = 1
    """Parallel connections for a large file."""
    use_peers: bool = False
    """Whether the parent answers queries about other nodes."""


class DownloadJob(TransferJob, frozen=True, kw_only=True, tag_field="type", tag="download"):
    """Resolve a reference, wait for Go, fetch into `folder`, an absolute path."""

    repo: str
    quant: str | None = None
    revision: str | None = None
    file: str | None = None
    choice: Choice = Choice()
    folder: str


class WantedFile(Struct, frozen=True, kw_only=True):
    """A file by its hash: its path in the store, and where the hub has it if it does."""

    size_bytes: int
    sha256: str
    path: str
    repo: str | None = None
    revision: str | None = None
    remote: str | None = None


class FilesJob(TransferJob, frozen=True, kw_only=True, tag_field="type", tag="files"):
    """Fetch these files at once."""

    files: tuple[WantedFile, ...]


class Go(Struct, frozen=True, kw_only=True, tag_field="type", tag="go"):
    """Fetch what was resolved; others_bytes is what other downloads still need of the disk."""

    others_bytes: int = 0
    limit_bytes_s: int | None = None


class Limit(Struct, frozen=True, kw_only=True, tag_field="type", tag="limit"):
    """The bandwidth limit from now on."""

    limit_bytes_s: int | None = None


class FilePeers(Struct, frozen=True, kw_only=True, tag_field="type", tag="file_peers"):
    """Answers FindFilePeers: the nodes that have the file."""

    sha256: str
    offers: tuple[PeerOffer, ...] = ()


class PeerRepo(Struct, frozen=True, kw_only=True, tag_field="type", tag="peer_repo"):
    """Answers FindPeerRepo: the files that other nodes have; without a commit they have none."""

    commit: str | None = None
    files: tuple[RemoteFile, ...] = ()


class FindFilePeers(Struct, frozen=True, kw_only=True, tag_field="type", tag="find_file_peers"):
    """A query: which nodes have this file?"""

    sha256: str
    size_bytes: int


class FindPeerRepo(Struct, frozen=True, kw_only=True, tag_field="type", tag="find_peer_repo"):
    """A query when the hub does not respond: which files of this repository do other nodes have?"""

    repo: str
    revision: str | None = None


class BlacklistPeer(Struct, frozen=True, kw_only=True, tag_field="type", tag="blacklist_peer"):
    """These nodes sent bytes of a file whose hash is wrong."""

    sha256: str
    nodes: tuple[str, ...]


class Resolved(Struct, frozen=True, kw_only=True, tag_field="type", tag="resolved"):
    """What will be fetched: model files in order, then the mmproj; paths are relative to the job's folder.

    Without a `model_path` the files make no model; `.` is the folder itself.
    """

    commit: str
    quant: str | None
    files: tuple[RemoteFile, ...]
    bytes_total: int
    missing_bytes: int
    """What is not on the disk yet."""
    model_path: str | None
    mmproj_path: str | None = None
    format: Format | None = None
    task: str | None = None
    """The hub's task of the model."""
    is_default_quant: bool = False
    """Whether a reference without a quant resolves to the same files."""


class TransferProgress(Struct, frozen=True, kw_only=True, tag_field="type", tag="progress"):
    """The bytes of all files present now, fewer again after a restart of a file, and the current file."""

    bytes_done: int
    file: str
    files_done: int


class Received(Struct, frozen=True, kw_only=True, tag_field="type", tag="received"):
    """The bytes that this process has received, by source: the `hub` or a node's name."""

    received: dict[str, int]


class TransferProblem(Struct, frozen=True, kw_only=True, tag_field="type", tag="problem"):
    """Nothing arrives now, and the transfer is retried; a sentence for the user."""

    message: str


class FileVerified(Struct, frozen=True, kw_only=True, tag_field="type", tag="verified"):
    """This file is complete under its own name."""

    file: str


class Finished(Struct, frozen=True, kw_only=True, tag_field="type", tag="finished"):
    """All files are complete, and a GGUF model was checked; the last message of a successful job."""


class Failed(Struct, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """The last message of a failed job; message is a sentence for the user."""

    code: str
    message: str


Job = DownloadJob | FilesJob
PeerReply = FilePeers | PeerRepo
WorkerOrder = Go | Limit | PeerReply
PeerMessage = FindFilePeers | FindPeerRepo | BlacklistPeer
FinalMessage = Finished | Failed
WorkerMessage = (
    Resolved | TransferProgress | Received | TransferProblem | FileVerified | PeerMessage | FinalMessage
)

JOB_DECODER: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)
MESSAGE_DECODER: msgspec.json.Decoder[WorkerMessage] = msgspec.json.Decoder(WorkerMessage)
ORDER_DECODER: msgspec.json.Decoder[WorkerOrder] = msgspec.json.Decoder(WorkerOrder)


class TransferWorkerDied(Exception):
    """The worker ended without a final message, most likely killed. What it has fetched is on the disk."""


class TransferWorker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def messages(self) -> AsyncIterator[WorkerMessage]:
        """All messages up to the final one; TransferWorkerDied if there is none."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                message = MESSAGE_DECODER.decode(line)
            except msgspec.DecodeError as error:  # an incomplete line: it was killed during a write
                raise TransferWorkerDied from error
            yield message
            if isinstance(message, FinalMessage):
                return
        raise TransferWorkerDied

    async def send(self, order: WorkerOrder | Job) -> None:
        """Send a line; a dead worker is detected by `messages`."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            await self._process.stdin.drain()


@contextlib.asynccontextmanager
async def transfer_worker(job: Job, log_path: Path) -> AsyncIterator[TransferWorker]:
    """A worker for this job, whose stderr is appended to log_path; killed at the end of the block."""
    with log_path.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.downloader.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=dict(os.environ),
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
    try:
        worker = TransferWorker(process)
        await worker.send(job)
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
