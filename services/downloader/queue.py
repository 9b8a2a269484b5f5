"""The queue of one machine's downloads, decided: who begins next, who joins whom, who gets how much."""

from collections.abc import Collection, Iterable

from schemas.downloads import ENDED, Download, DownloadState
from schemas.hub import Choice
from services.downloader.reference import Reference, parse_reference
from services.downloader.selection.gguf_names import normal_quant

_MAIN = "main"
ALL = Choice()
"""What a reference means where nothing else is said."""


def waiting(downloads: Iterable[Download]) -> list[Download]:
    """Those that wait for their turn, the next one first."""
    queued = [each for each in downloads if each.state is DownloadState.QUEUED]
    return sorted(queued, key=lambda each: (each.order, each.created_at))


def next_up(downloads: Collection[Download], running: Collection[Download], at_once: int) -> Download | None:
    """Who begins now; of one repository never two at a time, for they may share files."""
    if len(running) >= at_once:
        return None
    busy = {folder_of(each) for each in running}
    ids = {each.download for each in running}
    free = (each for each in waiting(downloads) if each.download not in ids and folder_of(each) not in busy)
    return next(free, None)


def folder_of(download: Download) -> str:
    """Where its files go, as a disk without upper and lower case sees it."""
    return parse_reference(download.reference).repo.casefold()


def last_order(downloads: Iterable[Download]) -> float:
    """The order of who comes after all others."""
    return max((each.order for each in downloads), default=0.0) + 1.0


def moved(downloads: Iterable[Download], download: str, to: int) -> dict[str, float]:
    """The orders that change so that `download` has place `to` among those that wait."""
    others = [each for each in waiting(downloads) if each.download != download]
    to = max(0, min(to, len(others)))
    before = others[to - 1].order if to else others[0].order - 2.0 if others else 0.0
    after = others[to].order if to < len(others) else before + 2.0
    between = (before + after) / 2
    if before < between < after:
        return {download: between}
    ids = [each.download for each in others]
    return {each: float(place) for place, each in enumerate([*ids[:to], download, *ids[to:]])}


def joined(
    downloads: Iterable[Download], reference: Reference, name: str | None, choice: Choice = ALL
) -> Download | None:
    """The download that already brings what is asked for, however that is worded."""
    alike = (each for each in downloads if each.choice == choice and name in {None, each.model})
    return next((each for each in alike if _brings(each, reference)), None)


def _brings(download: Download, wanted: Reference) -> bool:
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
    known = {normal_quant(quant) for quant in (own.quant, download.quant) if quant}
    return normal_quant(wanted.quant) in known


def shares(total: int | None, caps: dict[str, int | None]) -> dict[str, int | None]:
    """What each running download may take of a limit: what it asks for, or an equal part of the rest."""
    if total is None:
        return caps
    given: dict[str, int | None] = {}
    left = total
    for count, key in enumerate(sorted(caps, key=lambda each: (caps[each] is None, caps[each] or 0))):
        equal = max(1, left // (len(caps) - count))
        cap = caps[key]
        own = equal if cap is None else min(cap, equal)
        given[key] = own
        left -= own
    return given


def still_needed_bytes(downloads: Iterable[Download]) -> int:
    """What these downloads have yet to write to the disk."""
    return sum(max(0, (each.bytes_total or 0) - each.bytes_done) for each in downloads)
