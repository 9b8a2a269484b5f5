"""How far the files of a model are on their way to a node. Pure."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from schemas.downloads import ENDED, Download, DownloadState
from schemas.library import JOB_ENDED, JobKind, JobState, LibraryJob, TrashedEntry, node_of

RETRY_S = 60.0
"""So long after a failure nothing is tried again, unless somebody asks for a start."""
SETTLE_S = 15.0
"""Files that have come are found by then."""


class Progress(NamedTuple):
    """How it stands."""

    text: str
    failed: bool = False


class Work(NamedTuple):
    """A copy or a download, alike."""

    text: str
    ended: bool
    changed_at: float
    problem: str | None = None


def progress(works: Iterable[Work], node: str, now: float, wished_at: float | None) -> Progress | None:
    """What the newest work for a node means; None: nothing is under way, and it may be tried."""
    newest = max(works, key=lambda work: (not work.ended, work.changed_at), default=None)
    if newest is None or (newest.ended and now - newest.changed_at > RETRY_S):
        return None
    if not newest.ended:
        return Progress(newest.text)
    if newest.problem is None and now - newest.changed_at <= SETTLE_S:
        return Progress(f"its files have come to {node}")
    if wished_at is not None and wished_at > newest.changed_at:
        return None
    problem = newest.problem or "what came is not what it needs"
    return Progress(f"its files could not be brought to {node}: {problem.rstrip('.')}", failed=True)


def deleted(
    trashed: Iterable[TrashedEntry], missing: Collection[str], node: str, wished_at: float | None
) -> Progress | None:
    """What a person put into the trash of a node does not come back by itself."""
    gone = [one for one in trashed if one.node == node and one.path in missing]
    if not gone or (wished_at or 0.0) > max(one.trashed_at for one in gone):
        return None
    how = f"restore them (yard library restore {gone[0].name}), or start the model to fetch them anew"
    return Progress(f"its files are in the trash of {node}; {how}", failed=True)


def copying(job: LibraryJob) -> Work:
    """A copy from another node."""
    giver = node_of(job.source) if job.source else "another node"
    text = f"its files are being copied from {giver} to {job.node}{_part(job.bytes_done, job.bytes_total)}"
    problem = job.error.message if job.error else None
    if job.state is JobState.CANCELLED:
        problem = "the copy was cancelled"
    return Work(text, job.state in JOB_ENDED, job.changed_at, problem)


def downloading(download: Download) -> Work:
    """A download from the hub."""
    part = _part(download.bytes_done, download.bytes_total)
    texts = {
        DownloadState.PAUSED: f"the download of its files to {download.node} is paused{part}",
        DownloadState.QUEUED: f"the download of its files to {download.node} waits for its turn{part}",
    }
    text = texts.get(download.state, f"its files are being downloaded to {download.node}{part}")
    problem = download.error.message if download.error else None
    if download.state is DownloadState.CANCELLED:
        problem = "the download was cancelled"
    return Work(text, download.state in ENDED, download.changed_at, problem)


def works(
    model: str, missing: Iterable[str], node: str, jobs: Iterable[LibraryJob], downloads: Iterable[Download]
) -> list[Work]:
    """Everything that brings, or should have brought, what is missing of a model to a node."""
    paths = set(missing)
    copies = [
        copying(job) for job in jobs if job.kind is JobKind.COPY and job.node == node and job.subject in paths
    ]
    return copies + [downloading(one) for one in downloads if one.node == node and one.model == model]


def _part(done: int, total: int | None) -> str:
    return f" ({100 * done // total} %)" if total else ""
