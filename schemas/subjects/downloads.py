"""Downloads from the hub, offers, and registration of files as models."""

from collections.abc import Iterable

from schemas.base import CALLERS, DOWNLOADER, DRAIN_S, FETCHERS, HUB_S, WATCHERS, Role
from schemas.downloads import (
    AddDownloads,
    Download,
    DownloadRef,
    DownloadsAdded,
    LimitDownload,
    MoveDownload,
    StartDownload,
)
from schemas.hub import GetOffer, HubSearchResults, Offer, SearchHub
from schemas.registry import Registered, RegisterFiles
from schemas.subject import Command, R, Subject, T


def _download(
    verb: str,
    payload: type[T],
    reply: type[R],
    summary: str,
    changes: str,
    callers: Iterable[Role] = CALLERS,
) -> Command[T, R]:
    return Command(
        f"yard.command.download.{verb}",
        payload,
        reply,
        callers=callers,
        server=DOWNLOADER,
        summary=summary,
        timeout_s=15.0,
        changes=changes,
    )


DOWNLOAD_START = _download(
    "start",
    StartDownload,
    Download,
    "Download a model from the hub; a second caller joins a running download.",
    "reference",
    callers=FETCHERS,
)
DOWNLOAD_ADD = _download(
    "add",
    AddDownloads,
    DownloadsAdded,
    "Start a download for every reference in a text; each is accepted or refused on its own.",
    "text",
)
DOWNLOAD_PAUSE = _download(
    "pause", DownloadRef, Download, "Pause a download until it is resumed.", "download"
)
DOWNLOAD_RESUME = _download("resume", DownloadRef, Download, "Resume a paused download.", "download")
DOWNLOAD_CANCEL = _download(
    "cancel",
    DownloadRef,
    Download,
    "Cancel a download; received data stays on disk for a later one.",
    "download",
)
DOWNLOAD_RETRY = _download(
    "retry", DownloadRef, Download, "Retry a failed or cancelled download.", "download"
)
DOWNLOAD_MOVE = _download("move", MoveDownload, Download, "Move a waiting download in the queue.", "download")
DOWNLOAD_LIMIT = _download(
    "limit", LimitDownload, Download, "Change the bandwidth limit of a download.", "download"
)
DOWNLOAD_FORGET = _download(
    "forget", DownloadRef, Download, "Remove a finished download from the list.", "download"
)
DOWNLOAD_AT_NODE = Command(
    "yard.command.download.{node}.{verb}",
    bytes,
    bytes,
    callers=(DOWNLOADER,),
    server=DOWNLOADER,
    summary="A command about downloads, forwarded to the node in charge: the same JSON.",
    timeout_s=10.0,
)
HUB_SEARCH = Command(
    "yard.command.hub.search",
    SearchHub,
    HubSearchResults,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Search models on the hub by name, most downloaded first by default.",
    timeout_s=HUB_S,
)
HUB_OFFER = Command(
    "yard.command.hub.offer",
    GetOffer,
    Offer,
    callers=FETCHERS,
    server=DOWNLOADER,
    summary="The choices of a repository: quants, sizes and their fit on each node; nothing is downloaded.",
    timeout_s=HUB_S,
)
FILES_REGISTER = Command(
    "yard.command.files.register",
    RegisterFiles,
    Registered,
    callers=CALLERS,
    server=DOWNLOADER,
    summary="Register files of a store as a model; unset fields are derived from the files.",
    timeout_s=DRAIN_S,
    changes="path",
)
DOWNLOAD_CHANGED = Subject(
    "yard.event.download.{download}.{state}",
    Download,
    publish=(DOWNLOADER,),
    subscribe=WATCHERS,
    summary="A download changed its state.",
)
DOWNLOAD_PROGRESS = Subject(
    "yard.progress.download.{download}",
    Download,
    publish=(DOWNLOADER,),
    subscribe=WATCHERS,
    summary="Progress of a download, at most every 500 ms.",
)
