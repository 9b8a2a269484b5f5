"""What a job fetches, from where and to which path, decided before any byte is written."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from modelyard.host.paths import check_folder, resolve_all, resolve_inside
from schemas.hub import Choice
from services.downloader.errors import DownloadError, HubError
from services.downloader.hub.access import authorization, file_url
from services.downloader.hub.repositories import list_repo
from services.downloader.reference import Reference, make_reference
from services.downloader.selection.choose import select_files
from services.downloader.selection.files import RemoteFile, RepoListing, Selection, SelectionError
from services.downloader.transfer.disk import file_bytes
from services.downloader.transfer.options import FileSource
from services.downloader.transfer.part_file import arrived_bytes
from services.downloader.worker.messages import DownloadJob, FilesJob, Resolved, TransferJob, WantedFile
from services.downloader.worker.orders import OrderReader

_HUB_DOWN = frozenset({"hub_unreachable", "hub_error"})
"""Only then other nodes are queried for a repository: what the hub refuses is not fetched from them."""


class PlannedFile(Struct, frozen=True, kw_only=True):
    """A file with its source and its destination; `path` is its name in messages."""

    path: str
    dest: Path
    source: FileSource
    arrived_bytes: int = 0


def plan_download(job: DownloadJob, orders: OrderReader) -> tuple[Resolved, tuple[PlannedFile, ...]]:
    """Resolve the reference at the hub, or at other nodes while it does not respond."""
    require_store(job)
    with _coded("bad_reference"):
        reference = make_reference(job.repo, job.quant, job.revision, job.file)
    with _coded("unsafe_path"):
        folder = check_folder(Path(job.store_root), Path(job.folder))
    listing = _list_repo(reference, orders if job.use_peers else None)
    selection = _select(reference, listing.files, job.choice)
    with _coded("unsafe_path"):
        dests = resolve_all(folder, [file.path for file in selection.files])
    header = authorization()
    files = tuple(
        _planned_file(reference.repo, listing.commit, file, dest, header)
        for file, dest in zip(selection.files, dests, strict=True)
    )
    bytes_total = sum(file.size_bytes for file in selection.files)
    resolved = Resolved(
        commit=listing.commit,
        quant=selection.quant,
        files=selection.files,
        bytes_total=bytes_total,
        missing_bytes=bytes_total - sum(file.arrived_bytes for file in files),
        model_path=selection.model_path,
        mmproj_path=selection.mmproj.path if selection.mmproj else None,
        format=selection.format,
        task=listing.task,
        is_default_quant=_is_default(reference, selection, listing.files, job.choice),
    )
    return resolved, files


def plan_files(job: FilesJob) -> tuple[PlannedFile, ...]:
    """The files of a job by their paths in the store."""
    require_store(job)
    root, header = Path(job.store_root), authorization()
    with _coded("unsafe_path"):
        dests = [resolve_inside(root, file.path) for file in job.files]
    return tuple(
        PlannedFile(
            path=file.path,
            dest=dest,
            source=FileSource(
                url=_hub_url(file), size_bytes=file.size_bytes, sha256=file.sha256, authorization=header
            ),
        )
        for file, dest in zip(job.files, dests, strict=True)
    )


def require_store(job: TransferJob) -> None:
    """A missing store is not created: its disk may not be mounted, and another disk would fill up."""
    if not Path(job.store_root).is_dir():
        raise DownloadError("disk_error", f"The store {job.store_root} is not there; mount its disk.")


def _list_repo(reference: Reference, orders: OrderReader | None) -> RepoListing:
    try:
        return list_repo(reference)
    except HubError as error:
        if orders is None or error.code not in _HUB_DOWN:
            raise
        peers = orders.find_peer_repo(reference.repo, reference.revision)
        if peers.commit is None:
            raise
        return RepoListing(commit=peers.commit, files=peers.files)


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


def _planned_file(repo: str, commit: str, file: RemoteFile, dest: Path, header: str | None) -> PlannedFile:
    complete = file_bytes(dest) == file.size_bytes
    return PlannedFile(
        path=file.path,
        dest=dest,
        source=FileSource(
            url=file_url(repo, file.path, commit),
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            blob_sha1=file.blob_sha1,
            commit=commit,
            authorization=header,
        ),
        arrived_bytes=file.size_bytes if complete else arrived_bytes(dest, file.size_bytes, file.sha256),
    )


def _hub_url(file: WantedFile) -> str | None:
    if file.repo is None or file.revision is None or file.remote is None:
        return None
    return file_url(file.repo, file.remote, file.revision)


@contextmanager
def _coded(code: str) -> Iterator[None]:
    """Turn the ValueError of a pure function into a DownloadError."""
    try:
        yield
    except ValueError as error:
        raise DownloadError(code, str(error)) from error
