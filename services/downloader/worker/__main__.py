"""A transfer worker, `python -m services.downloader.worker`: a job on stdin, messages on stdout.

It may be killed at any time without harm. The exit code is 1 after Failed, else 0.
"""

import asyncio
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.bus import logs
from modelyard.files.gguf.check import HEAD_BYTES, check_gguf
from modelyard.host.processes import die_with_parent
from schemas.base import Format
from services.downloader.errors import DownloadError
from services.downloader.transfer.disk import file_bytes, require_free
from services.downloader.worker.fetch import fetch_files
from services.downloader.worker.messages import (
    JOB_DECODER,
    DownloadJob,
    Failed,
    FilesFinished,
    FilesJob,
    Finished,
    Job,
    WorkerMessage,
)
from services.downloader.worker.orders import OrderReader
from services.downloader.worker.plan import DownloadPlan, PlannedFile, plan_download, plan_files


def main() -> int:
    die_with_parent(signal.SIGKILL)
    # Unbuffered: a thread that waits for the lock of a buffer would keep the process from ending.
    lines = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 - until the process ends
    line = lines.readline()
    try:
        _run(_decode_job(line), OrderReader(lines, _send))
    except DownloadError as error:
        _send(Failed(code=error.code, message=error.sentence))
        return 1
    except Exception as error:  # noqa: BLE001 - the process border: the parent always gets a final message
        traceback.print_tb(error.__traceback__)  # without the text, which might quote a header
        sentence = f"The download stopped on an unexpected {type(error).__name__}; try again."
        _send(Failed(code="internal_error", message=sentence))
        return 1
    return 0


def _run(job: Job, orders: OrderReader) -> None:
    match job:
        case DownloadJob():
            _download(job, orders)
        case FilesJob():
            _fetch(plan_files(job), job, orders)
            _send(FilesFinished())


def _download(job: DownloadJob, orders: OrderReader) -> None:
    plan = plan_download(job, orders)
    resolved = plan.resolved
    _send(resolved)
    go = orders.wait_for_go()
    require_free(plan.files[0].dest.parent, resolved.missing_bytes, job.margin_bytes, go.others_bytes)
    _fetch(plan.files, job, orders)
    _require_files(plan)
    if resolved.format is Format.GGUF:
        _check_model(plan.files[0].dest)
    _send(
        Finished(
            commit=resolved.commit,
            quant=resolved.quant,
            bytes_total=resolved.bytes_total,
            model_path=resolved.model_path,
            mmproj_path=resolved.mmproj_path,
            task=resolved.task,
        )
    )


def _fetch(files: Sequence[PlannedFile], job: Job, orders: OrderReader) -> None:
    logs.configure("info", to=sys.stderr)  # stdout is for messages
    asyncio.run(fetch_files(files, job, orders, _send))


def _require_files(plan: DownloadPlan) -> None:
    """Other programs may have changed the folder during the transfer."""
    for file in plan.files:
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


def _decode_job(line: bytes) -> Job:
    try:
        return JOB_DECODER.decode(line)
    except ValueError as error:
        raise DownloadError("bad_job", f"The job is not readable: {error}.") from error


def _send(message: WorkerMessage) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
