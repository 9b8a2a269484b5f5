"""Transfers of model files to a node: what to order, and the progress of what was ordered. Pure."""

import re
from collections.abc import Collection, Iterable, Sequence
from glob import escape
from typing import NamedTuple

from schemas.downloads import ENDED, Download, DownloadState, StartDownload
from schemas.hub import Choice
from schemas.library import (
    JOB_ENDED,
    CopyEntry,
    JobKind,
    JobState,
    LibraryEntry,
    LibraryJob,
    TrashedEntry,
    node_of,
)
from schemas.models import ModelSpec

RETRY_S = 60.0
"""A failed transfer is retried after so long, or when a start is requested."""
ARRIVAL_S = 15.0
"""The library finds transferred files within this."""

TransferOrder = CopyEntry | StartDownload
_SHARD = re.compile(r"(?P<stem>.*-)\d{5}(?P<rest>-of-\d{5}\.gguf)")


def copy_order(
    spec: ModelSpec, missing: Sequence[str], entries: Sequence[Sequence[LibraryEntry]], node: str
) -> CopyEntry | None:
    """Copy the first of the missing files from a node that has it, if each is on some node.

    `entries`: for each of `missing`, the entries at its path on other nodes. A file without an entry of its
    own, as a projector or a template, is copied with the model in whose folder it is.
    """
    main = next((at_path for path, at_path in zip(missing, entries, strict=True) if path == spec.path), ())
    sources = [at_path or main for at_path in entries]
    if not sources or not all(sources):
        return None
    return CopyEntry(entry=sources[0][0].key, node=node)


def hub_order(spec: ModelSpec, missing: Sequence[str], node: str) -> StartDownload | None:
    """Download the missing files at the commit that the model came from, if all of them came from there."""
    if spec.source is None:
        return None
    repo = spec.source.repo
    if not all(path == repo or path.startswith(f"{repo}/") for path in missing):
        return None
    files = [path.removeprefix(f"{repo}/") for path in missing if path != repo]
    return StartDownload(
        reference=f"{repo}@{spec.source.revision}",
        name=spec.name,
        choice=Choice() if repo in missing else Choice(include=tuple(map(_pattern, files))),
        register=False,
        node=node,
    )


def _pattern(file: str) -> str:
    """The file itself; of several shards all."""
    if shard := _SHARD.fullmatch(file):
        return f"{escape(shard['stem'])}?????{escape(shard['rest'])}"
    return escape(file)


class FetchProgress(NamedTuple):
    """How the fetch of a model's files stands."""

    text: str
    failed: bool = False


class Transfer(NamedTuple):
    """A copy or a download, alike."""

    text: str
    ended: bool
    changed_at: float
    problem: str | None = None


def fetch_progress(
    transfers: Iterable[Transfer], node: str, now: float, requested_at: float | None
) -> FetchProgress | None:
    """The newest transfer to a node; None: nothing is under way, and a transfer may be ordered."""
    newest = max(transfers, key=lambda transfer: (not transfer.ended, transfer.changed_at), default=None)
    if newest is None or (newest.ended and now - newest.changed_at > RETRY_S):
        return None
    if not newest.ended:
        return FetchProgress(newest.text)
    if newest.problem is None and now - newest.changed_at <= ARRIVAL_S:
        return FetchProgress(f"its files have arrived on {node}")
    if requested_at is not None and requested_at > newest.changed_at:
        return None
    return failed_fetch(node, newest.problem or "what came is not what it needs")


def failed_fetch(node: str, problem: str, *, failed: bool = True) -> FetchProgress:
    """The sentence about files that a node did not get."""
    return FetchProgress(f"its files could not be brought to {node}: {problem.rstrip('.')}", failed=failed)


def trashed_files(
    trashed: Iterable[TrashedEntry], missing: Collection[str], node: str, requested_at: float | None
) -> FetchProgress | None:
    """Files in the trash of a node are fetched again only for a start command after their deletion."""
    deleted = [entry for entry in trashed if entry.node == node and entry.path in missing]
    if not deleted or (requested_at or 0.0) > max(entry.trashed_at for entry in deleted):
        return None
    how = f"restore them (yard library restore {deleted[0].name}), or start the model to fetch them again"
    return FetchProgress(f"its files are in the trash of {node}; {how}", failed=True)


def transfers_to(
    node: str, model: str, missing: Iterable[str], jobs: Iterable[LibraryJob], downloads: Iterable[Download]
) -> list[Transfer]:
    """All transfers of the missing files of a model to a node."""
    paths = set(missing)
    copies = (job for job in jobs if job.kind is JobKind.COPY and job.node == node and job.subject in paths)
    own = (download for download in downloads if download.node == node and download.model == model)
    return [*map(_copy_transfer, copies), *map(_download_transfer, own)]


def _copy_transfer(job: LibraryJob) -> Transfer:
    source = node_of(job.source) if job.source else "another node"
    share = _percentage(job.bytes_done, job.bytes_total)
    text = f"its files are being copied from {source} to {job.node}{share}"
    problem = job.error.message if job.error else None
    if job.state is JobState.CANCELLED:
        problem = "the copy was cancelled"
    return Transfer(text, job.state in JOB_ENDED, job.changed_at, problem)


def _download_transfer(download: Download) -> Transfer:
    share = _percentage(download.bytes_done, download.bytes_total)
    texts = {
        DownloadState.PAUSED: f"the download of its files to {download.node} is paused{share}",
        DownloadState.QUEUED: f"the download of its files to {download.node} waits for its turn{share}",
    }
    text = texts.get(download.state, f"its files are being downloaded to {download.node}{share}")
    problem = download.error.message if download.error else None
    if download.state is DownloadState.CANCELLED:
        problem = "the download was cancelled"
    return Transfer(text, download.state in ENDED, download.changed_at, problem)


def _percentage(done: int, total: int | None) -> str:
    return f" ({100 * done // total} %)" if total else ""
