"""What a download is to fetch and where to put it, decided before a byte is moved."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from modelyard.host.paths import check_folder, resolve_all
from schemas.hub import Choice
from services.downloader import listing
from services.downloader.disk import file_bytes
from services.downloader.errors import DownloadError, HubError
from services.downloader.hub import RepoListing
from services.downloader.listing import Listed
from services.downloader.part_file import arrived_bytes
from services.downloader.reference import Reference, make_reference
from services.downloader.selection import RemoteFile, Selection, SelectionError, select_files
from services.downloader.worker_messages import Job, Resolved
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


def make_plan(job: Job, orders: Orders | None = None) -> Plan:
    """Ask the hub, or other nodes where it does not answer, and decide; nothing is written yet."""
    require_store(job)
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


def require_store(job: Job) -> None:
    """What is missing is not made: its disk may not be mounted, and another one would fill up."""
    if not Path(job.store_root).is_dir():
        raise DownloadError("disk_error", f"The store {job.store_root} is not there; mount its disk.")


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


def _arrived_bytes(file: RemoteFile, place: Path) -> int:
    if file_bytes(place) == file.size_bytes:
        return file.size_bytes
    return arrived_bytes(place, file.size_bytes, file.sha256)


def _or_fail(code: str, decide: Callable[[], _T]) -> _T:
    """The pure parts speak in ValueErrors; the parent wants a code with it."""
    try:
        return decide()
    except ValueError as error:
        raise DownloadError(code, str(error)) from error
