"""Downloads from the hub, offers, and registration of files as models."""

from schemas.base import DOWNLOADER, DRAIN_S, FETCHERS, HUB_S
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
from schemas.subject import CommandDeclarer, Subject

_command = CommandDeclarer(DOWNLOADER)
_hub = CommandDeclarer(DOWNLOADER, timeout_s=HUB_S)
_download = CommandDeclarer(DOWNLOADER, timeout_s=15.0)

DOWNLOAD_START = _download.change(
    "download.start",
    StartDownload,
    Download,
    "Download a model from the hub; a second caller joins a running download.",
    callers=FETCHERS,
)
DOWNLOAD_ADD = _download.change(
    "download.add",
    AddDownloads,
    DownloadsAdded,
    "Start a download for every reference in a text; each is accepted or refused on its own.",
)
DOWNLOAD_PAUSE = _download.change(
    "download.pause", DownloadRef, Download, "Pause a download until it is resumed."
)
DOWNLOAD_RESUME = _download.change("download.resume", DownloadRef, Download, "Resume a paused download.")
DOWNLOAD_CANCEL = _download.change(
    "download.cancel",
    DownloadRef,
    Download,
    "Cancel a download; received data stays on disk for a later one.",
)
DOWNLOAD_RETRY = _download.change(
    "download.retry", DownloadRef, Download, "Retry a failed or cancelled download."
)
DOWNLOAD_MOVE = _download.change(
    "download.move", MoveDownload, Download, "Move a waiting download in the queue."
)
DOWNLOAD_LIMIT = _download.change(
    "download.limit", LimitDownload, Download, "Change the bandwidth limit of a download."
)
DOWNLOAD_FORGET = _download.change(
    "download.forget", DownloadRef, Download, "Remove a finished download from the list."
)
DOWNLOAD_AT_NODE = _command(
    "download.{node}.{verb}",
    bytes,
    bytes,
    "A command about downloads, forwarded to the node in charge: the same JSON.",
    callers=(DOWNLOADER,),
    timeout_s=10.0,
)
HUB_SEARCH = _hub(
    "hub.search",
    SearchHub,
    HubSearchResults,
    "Search models on the hub by name, most downloaded first by default.",
)
HUB_OFFER = _hub(
    "hub.offer",
    GetOffer,
    Offer,
    "The choices of a repository: quants, sizes and their fit on each node; nothing is downloaded.",
    callers=FETCHERS,
)
FILES_REGISTER = _command.change(
    "files.register",
    RegisterFiles,
    Registered,
    "Register files of a store as a model; unset fields are derived from the files.",
    timeout_s=DRAIN_S,
)
DOWNLOAD_CHANGED = Subject(
    "yard.event.download.{download}.{state}", Download, "A download changed its state.", publish=(DOWNLOADER,)
)
DOWNLOAD_PROGRESS = Subject(
    "yard.progress.download.{download}",
    Download,
    "Progress of a download, at most every 500 ms.",
    publish=(DOWNLOADER,),
)
