"""A transfer worker, `python -m services.downloader.worker`: a job on stdin, messages on stdout.

It may be killed at any time without harm. The exit code is 1 after Failed, else 0.
"""

import asyncio
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.bus import logs
from modelyard.files.gguf.parse import HEAD_BYTES, check_gguf
from modelyard.host.processes import die_with_parent
from schemas.base import Format
from services.downloader.errors import DownloadError
from services.downloader.transfer.disk import file_bytes, require_free
from services.downloader.transfer.file_transfer import fetch_file, open_session
from services.downloader.transfer.options import Throttle, TransferOptions
from services.downloader.worker import messages
from services.downloader.worker.orders import OrderReader
from services.downloader.worker.plan import PlannedFile, plan_download, plan_files, require_store

PROGRESS_S = 0.25
"""Least time between two progress messages within a file."""


def main() -> int:
    die_with_parent(signal.SIGKILL)
    # Unbuffered: a thread that waits for the lock of a buffer would keep the process from ending.
    lines = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 - until the process ends
    line = lines.readline()
    logs.configure("info", to=sys.stderr)  # stdout is for messages
    try:
        _run(_decode_job(line), OrderReader(lines, _send))
        _send(messages.Finished())
    except DownloadError as error:
        _send(messages.Failed(code=error.code, message=error.sentence))
        return 1
    except Exception as error:  # noqa: BLE001 - the process border: the parent always gets a final message
        traceback.print_tb(error.__traceback__)  # without the text, which might quote a header
        sentence = f"The download stopped on an unexpected {type(error).__name__}; try again."
        _send(messages.Failed(code="internal_error", message=sentence))
        return 1
    return 0


def _run(job: messages.Job, orders: OrderReader) -> None:
    if isinstance(job, messages.FilesJob):
        asyncio.run(_fetch_files(plan_files(job), job, orders))
        return
    resolved, files = plan_download(job, orders)
    _send(resolved)
    go = orders.wait_for_go()
    require_free(files[0].dest.parent, resolved.missing_bytes, job.margin_bytes, go.others_bytes)
    asyncio.run(_fetch_files(files, job, orders))
    _require_files(files)
    if resolved.format is Format.GGUF:
        _check_model(files[0].dest)


def _require_files(files: Sequence[PlannedFile]) -> None:
    """Other programs may have changed the folder during the transfer."""
    for file in files:
        if file_bytes(file.dest) != file.source.size_bytes:
            raise DownloadError("disk_error", f"{file.dest.name} was removed during the download; retry it.")


def _check_model(path: Path) -> None:
    """Delete and refuse a file that is not a model."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        check_gguf(head, path.stat().st_size)
    except ValueError as error:
        path.unlink()
        raise DownloadError("corrupt_gguf", f"{path.name} from the hub is not a model. {error}") from error


def _decode_job(line: bytes) -> messages.Job:
    try:
        return messages.JOB_DECODER.decode(line)
    except ValueError as error:
        raise DownloadError("bad_job", f"The job is not readable: {error}.") from error


def _send(message: messages.WorkerMessage) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


async def _fetch_files(files: Sequence[PlannedFile], job: messages.TransferJob, orders: OrderReader) -> None:
    """Fetch every file; one that is complete already is only checked."""
    throttle, progress = Throttle(), _ProgressSender(files, with_sources=job.use_peers)
    orders.watch_limit(throttle.set_limit)
    options = TransferOptions(
        segments=job.segments,
        margin_bytes=job.margin_bytes,
        throttle=throttle,
        on_problem=lambda sentence: _send(messages.TransferProblem(message=sentence)),
        on_received=progress.on_received,
        find_peers=orders.find_file_peers if job.use_peers else None,
        on_hash_mismatch=lambda source, nodes: _send(
            messages.BlacklistPeer(sha256=source.sha256 or "", nodes=nodes)
        ),
    )
    async with open_session() as session:
        for file in files:
            progress.file = file.path
            require_store(job)
            await fetch_file(session, file.source, file.dest, on_bytes=progress.on_bytes, options=options)
            progress.finish_file(file.source.size_bytes)
            _send(messages.FileVerified(file=file.path))


class _ProgressSender:
    """Sends a TransferProgress at most every 250 ms, and one at the end of each file."""

    def __init__(self, files: Sequence[PlannedFile], *, with_sources: bool) -> None:
        self._with_sources = with_sources
        self._received: Counter[str] = Counter()
        self._file_bytes = [file.arrived_bytes for file in files]
        self.file = ""
        self._files_done = 0
        self._sent_at = float("-inf")

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
            _send(messages.Received(received=dict(self._received)))
        _send(
            messages.TransferProgress(
                bytes_done=sum(self._file_bytes), file=self.file, files_done=self._files_done
            )
        )


if __name__ == "__main__":
    sys.exit(main())
