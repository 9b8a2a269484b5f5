"""The rules of the download queue as pure functions: order, duplicates, and shares of the bandwidth."""

from collections.abc import Collection, Iterable

from schemas.downloads import ENDED, Download, DownloadState
from schemas.hub import Choice
from services.downloader.reference import Reference, parse_reference
from services.downloader.selection.gguf_names import normal_quant

_MAIN = "main"
DEFAULT_CHOICE = Choice()


def queued(downloads: Iterable[Download]) -> list[Download]:
    """The queued downloads in order."""
    waiting = [download for download in downloads if download.state is DownloadState.QUEUED]
    return sorted(waiting, key=lambda download: (download.order, download.created_at))


def next_download(
    downloads: Collection[Download], running: Collection[Download], max_running: int
) -> Download | None:
    """The download to start now; never a second one of a repository, since they may share files."""
    if len(running) >= max_running:
        return None
    busy = {folder_of(download) for download in running}
    ids = {download.download for download in running}
    startable = (
        download
        for download in queued(downloads)
        if download.download not in ids and folder_of(download) not in busy
    )
    return next(startable, None)


def folder_of(download: Download) -> str:
    """The repository's folder as a case-insensitive disk compares it."""
    return parse_reference(download.reference).repo.casefold()


def last_order(downloads: Iterable[Download]) -> float:
    """The order of a download behind all others."""
    return max((download.order for download in downloads), default=0.0) + 1.0


def moved(downloads: Iterable[Download], key: str, to: int) -> dict[str, float]:
    """The orders to change so that a download is at position `to` of the queue."""
    others = [download for download in queued(downloads) if download.download != key]
    to = max(0, min(to, len(others)))
    before = others[to - 1].order if to else others[0].order - 2.0 if others else 0.0
    after = others[to].order if to < len(others) else before + 2.0
    between = (before + after) / 2
    if before < between < after:
        return {key: between}
    ids = [download.download for download in others]
    return {id_: float(position) for position, id_ in enumerate([*ids[:to], key, *ids[to:]])}


def find_duplicate(
    downloads: Iterable[Download], reference: Reference, name: str | None, choice: Choice = DEFAULT_CHOICE
) -> Download | None:
    """The download that already fetches a reference, however it is written."""
    candidates = (
        download for download in downloads if download.choice == choice and name in {None, download.model}
    )
    return next((download for download in candidates if _fetches(download, reference)), None)


def _fetches(download: Download, wanted: Reference) -> bool:
    own = parse_reference(download.reference)
    return (
        download.state not in ENDED
        and own.repo == wanted.repo
        and (wanted.revision or _MAIN) in {own.revision or _MAIN, download.revision}
        and _has_files(download, own, wanted)
    )


def _has_files(download: Download, own: Reference, wanted: Reference) -> bool:
    if wanted.file is not None:
        return wanted.file in {own.file, *download.files}
    if own.file is not None:
        return False
    if wanted.quant is None:
        return own.quant is None or download.is_default_quant
    quants = {normal_quant(quant) for quant in (own.quant, download.quant) if quant}
    return normal_quant(wanted.quant) in quants


def bandwidth_shares(total: int | None, limits: dict[str, int | None]) -> dict[str, int | None]:
    """Each download's part of the total: its own limit, or an equal part of the rest."""
    if total is None:
        return limits
    shares: dict[str, int | None] = {}
    rest = total
    smallest_first = sorted(limits, key=lambda key: (limits[key] is None, limits[key] or 0))
    for count, key in enumerate(smallest_first):
        equal = max(1, rest // (len(limits) - count))
        limit = limits[key]
        share = equal if limit is None else min(limit, equal)
        shares[key] = share
        rest -= share
    return shares


def missing_bytes(downloads: Iterable[Download]) -> int:
    """The bytes that these downloads have yet to write."""
    return sum(max(0, (download.bytes_total or 0) - download.bytes_done) for download in downloads)
