"""One transfer in a process of its own: a job on stdin, messages on stdout, killed at any time without harm.

Run as `python -m services.downloader.worker`. The exit code is 0 after Finished and 1 after Failed.
"""

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from modelyard.gguf.check import HEAD_BYTES, check_gguf
from modelyard.host.processes import die_with_parent
from schemas.base import Format
from services.downloader.disk import file_bytes, require_free
from services.downloader.errors import DownloadError
from services.downloader.worker_messages import JOB_DECODER, Failed, Finished, Job
from services.downloader.worker_messages import WorkerMessage as Message
from services.downloader.worker_orders import Orders
from services.downloader.worker_plan import Plan, make_plan


def main() -> int:
    """The whole life of the process."""
    die_with_parent(signal.SIGKILL)
    # Without a buffer: a thread that waits in one would not let the process end.
    lines = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 - to the very end
    line = lines.readline()
    try:
        _run(_read_job(line), Orders(lines, _send), _send)
    except DownloadError as error:
        _send(Failed(code=error.code, message=error.sentence))
        return 1
    except Exception as error:  # noqa: BLE001 - the process border: the parent always gets a last word
        traceback.print_tb(error.__traceback__)  # to stderr, and not the text: it might quote a header
        sentence = f"The download stopped on an unexpected {type(error).__name__}; try again."
        _send(Failed(code="internal_error", message=sentence))
        return 1
    return 0


def _run(job: Job, orders: Orders, send: Callable[[Message], None]) -> None:
    plan = make_plan(job, orders)
    resolved = plan.resolved
    send(resolved)
    go = orders.wait_for_go()
    require_free(plan.places[0].parent, resolved.missing_bytes, job.margin_bytes, go.others_bytes)
    # Not before the hub was asked: both at once would be the most memory that a download ever takes.
    from services.downloader.worker_fetch import fetch_all

    fetch_all(job, plan, orders, send)
    _require_files(plan)
    if resolved.format is Format.GGUF:
        _check_model(plan.places[0])
    send(
        Finished(
            commit=resolved.commit,
            quant=resolved.quant,
            bytes_total=resolved.bytes_total,
            model_path=resolved.model_path,
            mmproj_path=resolved.mmproj_path,
            task=resolved.task,
        )
    )


def _require_files(plan: Plan) -> None:
    """Others may have been at work in the folder, too."""
    for file, place in zip(plan.resolved.files, plan.places, strict=True):
        if file_bytes(place) != file.size_bytes:
            raise DownloadError("disk_error", f"{place.name} was taken away by somebody; retry the download.")


def _check_model(place: Path) -> None:
    """What is no model does not stay where models lie."""
    with place.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        check_gguf(head, place.stat().st_size)
    except ValueError as error:
        place.unlink()
        raise DownloadError("corrupt_gguf", f"{place.name} from the hub is not a model. {error}") from error


def _read_job(line: bytes) -> Job:
    try:
        return JOB_DECODER.decode(line)
    except ValueError as error:
        raise DownloadError("bad_job", f"The job is not readable: {error}.") from error


def _send(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
