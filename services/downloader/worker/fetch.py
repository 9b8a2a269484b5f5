"""The transfer of planned files, one after the other, with progress messages."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from services.downloader.transfer.file_transfer import fetch_file, open_session
from services.downloader.transfer.options import Throttle, TransferOptions
from services.downloader.worker.messages import (
    BlacklistPeer,
    FileVerified,
    Received,
    TransferJob,
    TransferProblem,
    TransferProgress,
    WorkerMessage,
)
from services.downloader.worker.orders import OrderReader
from services.downloader.worker.plan import PlannedFile, require_store

PROGRESS_S = 0.25
"""Least time between two progress messages within a file."""
Send = Callable[[WorkerMessage], None]


async def fetch_files(
    files: Sequence[PlannedFile], job: TransferJob, orders: OrderReader, send: Send
) -> None:
    """Fetch every file; one that is complete already is only checked."""
    throttle, progress = Throttle(), _ProgressSender(files, send, with_sources=job.use_peers)
    orders.watch_limit(throttle.set_limit)
    options = TransferOptions(
        segments=job.segments,
        margin_bytes=job.margin_bytes,
        throttle=throttle,
        on_problem=lambda sentence: send(TransferProblem(message=sentence)),
        on_received=progress.on_received,
        find_peers=orders.find_file_peers if job.use_peers else None,
        on_hash_mismatch=lambda source, nodes: send(BlacklistPeer(sha256=source.sha256 or "", nodes=nodes)),
    )
    async with open_session() as session:
        for file in files:
            progress.start_file(file.path)
            require_store(job)
            await fetch_file(session, file.source, file.dest, on_bytes=progress.on_bytes, options=options)
            progress.finish_file(file.source.size_bytes)
            send(FileVerified(file=file.path))


class _ProgressSender:
    """Sends a TransferProgress at most every 250 ms, and one at the end of each file."""

    def __init__(self, files: Sequence[PlannedFile], send: Send, *, with_sources: bool) -> None:
        self._send = send
        self._with_sources = with_sources
        self._received: Counter[str] = Counter()
        self._file_bytes = [file.arrived_bytes for file in files]
        self._file = ""
        self._files_done = 0
        self._sent_at = float("-inf")

    def start_file(self, path: str) -> None:
        self._file = path

    def on_received(self, source: str, count_bytes: int) -> None:
        self._received[source] += count_bytes

    def on_bytes(self, present_bytes: int) -> None:
        self._file_bytes[self._files_done] = present_bytes
        if time.monotonic() - self._sent_at >= PROGRESS_S:
            self._send_progress()

    def finish_file(self, size_bytes: int) -> None:
        self._file_bytes[self._files_done] = size_bytes
        self._files_done += 1
        self._send_progress()

    def _send_progress(self) -> None:
        self._sent_at = time.monotonic()
        if self._with_sources:
            self._send(Received(received=dict(self._received)))
        self._send(
            TransferProgress(bytes_done=sum(self._file_bytes), file=self._file, files_done=self._files_done)
        )
