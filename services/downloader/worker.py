"""One transfer in a process of its own: a job on stdin, messages on stdout, killed at any time without harm.

Run as `python -m services.downloader.worker`. The exit code is 0 after Finished and 1 after Failed.
"""

import asyncio
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from modelyard import logging
from modelyard.gguf.check import HEAD_BYTES, check_gguf
from modelyard.parent import die_with_parent
from modelyard.paths import check_folder, resolve_all
from schemas.formats import Format
from schemas.hub import Choice
from services.downloader import listing
from services.downloader.disk import file_bytes, require_free
from services.downloader.errors import DownloadError, HubError
from services.downloader.hub import RepoListing
from services.downloader.listing import Listed
from services.downloader.part_file import arrived_bytes
from services.downloader.progress import ProgressMeter
from services.downloader.reference import Reference, make_reference
from services.downloader.selection import RemoteFile, Selection, SelectionError, select_files
from services.downloader.source import Source
from services.downloader.throttle import Throttle
from services.downloader.worker_messages import (
    JOB_DECODER,
    Distrust,
    Failed,
    Finished,
    Job,
    Progress,
    Received,
    Resolved,
    Trouble,
    Verified,
)
from services.downloader.worker_messages import WorkerMessage as Message
from services.downloader.worker_orders import Orders

_T = TypeVar("_T")
_HUB_AWAY = frozenset({"hub_unreachable", "hub_error"})
"""Then other nodes are asked; a repository that the hub refuses is not looked for behind its back."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A job with every question answered: what to fetch from which commit, and where each file goes."""

    answer: Listed
    resolved: Resolved
    places: tuple[Path, ...]
    arrived_bytes: tuple[int, ...]
    """What is on the disk of each file."""


def main() -> int:
    """The whole life of the process."""
    die_with_parent(signal.SIGKILL)
    logging.configure("info", to=sys.stderr)  # standard output is for messages
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


def make_plan(job: Job, orders: Orders | None = None) -> Plan:
    """Ask the hub, or other nodes where it does not answer, and decide; nothing is written yet."""
    reference = _or_fail("bad_reference", lambda: make_reference(job.repo, job.quant, job.revision, job.file))
    folder = _or_fail("unsafe_path", lambda: check_folder(Path(job.store_root), Path(job.folder)))
    answer = _ask(reference, orders if job.nodes else None)
    listed = answer.listing
    selection = _select(reference, listed.files, job.choice)
    files = selection.files
    places = _or_fail("unsafe_path", lambda: resolve_all(folder, [file.path for file in files]))
    arrived = tuple(map(_arrived_bytes, files, places))
    bytes_total = sum(file.size_bytes for file in files)
    return Plan(
        answer=answer,
        resolved=Resolved(
            commit=listed.commit,
            quant=selection.quant,
            files=files,
            bytes_total=bytes_total,
            missing_bytes=bytes_total - sum(arrived),
            model_path=selection.model_path,
            mmproj_path=selection.mmproj.path if selection.mmproj else None,
            format=selection.format,
            task=listed.task,
            is_default_quant=_is_default(reference, selection, listed.files, job.choice),
        ),
        places=tuple(places),
        arrived_bytes=arrived,
    )


def _ask(reference: Reference, orders: Orders | None) -> Listed:
    try:
        return listing.ask(reference)
    except HubError as error:
        if orders is None or error.code not in _HUB_AWAY:
            raise
        known = orders.seek_repo(reference.repo, reference.revision)
        if known.commit is None:
            raise
        return listing.listed(reference.repo, RepoListing(commit=known.commit, files=known.files))


def _select(reference: Reference, files: Iterable[RemoteFile], choice: Choice) -> Selection:
    try:
        return select_files(reference, files, choice)
    except SelectionError as error:
        raise DownloadError(error.code, str(error)) from error


def _is_default(
    reference: Reference, selection: Selection, files: Iterable[RemoteFile], choice: Choice
) -> bool:
    try:
        return select_files(msgspec.structs.replace(reference, quant=None), files, choice) == selection
    except SelectionError:  # the repository has no default
        return False


async def fetch(job: Job, plan: Plan, orders: Orders, send: Callable[[Message], None]) -> None:
    """Fetch the files one after the other; what is complete already is passed over."""
    # Not before the hub was asked: both at once would be the most memory that a download ever takes.
    from services.downloader.transfer import Options, fetch_file, open_session

    received: Counter[str] = Counter()

    def tell(progress: Progress) -> None:
        if job.nodes:
            send(Received(received=dict(received)))
        send(progress)

    meter, throttle = ProgressMeter(tell, plan.arrived_bytes), Throttle()
    orders.follow(throttle.limit)
    options = Options(
        segments=job.segments,
        margin_bytes=job.margin_bytes,
        throttle=throttle,
        on_trouble=lambda sentence: send(Trouble(message=sentence)),
        on_received=lambda source, count: received.update({source: count}),
        seek=orders.seek if job.nodes else None,
        on_lie=lambda source, nodes: send(Distrust(sha256=source.sha256 or "", nodes=nodes)),
    )
    async with open_session() as session:
        for file, place in zip(plan.resolved.files, plan.places, strict=True):
            meter.start_file(file.path)
            source = hub_source(plan, file)
            await fetch_file(session, source, place, on_bytes=meter.on_bytes, options=options)
            meter.finish_file(file.size_bytes)
            send(Verified(file=file.path))


def hub_source(plan: Plan, file: RemoteFile) -> Source:
    """The hub as the place where a file's bytes come from."""
    return Source(
        url=plan.answer.urls[file.path],
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        commit=plan.resolved.commit,
        authorization=plan.answer.authorization,
    )


def _run(job: Job, orders: Orders, send: Callable[[Message], None]) -> None:
    plan = make_plan(job, orders)
    resolved = plan.resolved
    send(resolved)
    go = orders.wait_for_go()
    require_free(plan.places[0].parent, resolved.missing_bytes, job.margin_bytes, go.others_bytes)
    asyncio.run(fetch(job, plan, orders, send))
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


def _arrived_bytes(file: RemoteFile, place: Path) -> int:
    if file_bytes(place) == file.size_bytes:
        return file.size_bytes
    return arrived_bytes(place, file.size_bytes, file.sha256)


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


def _or_fail(code: str, decide: Callable[[], _T]) -> _T:
    """The pure parts speak in ValueErrors; the parent wants a code with it."""
    try:
        return decide()
    except ValueError as error:
        raise DownloadError(code, str(error)) from error


def _send(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
