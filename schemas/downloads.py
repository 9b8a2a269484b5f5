"""From the hub to the disk."""

from enum import StrEnum

from schemas.errors import ErrorDetail
from schemas.hub import Choice
from schemas.record import Record
from schemas.registering import Wishes


class DownloadState(StrEnum):
    """Where a download is; `finished`, `failed` and `cancelled` are ends."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    """Asking the hub which files there are."""
    TRANSFERRING = "transferring"
    FINISHED = "finished"
    """Every byte is there and verified, and the model is registered."""
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({DownloadState.FINISHED, DownloadState.FAILED, DownloadState.CANCELLED})


class StartDownload(Record):
    """Fetch `REPO[:QUANT][@REVISION]`, `REPO/FILE` or a hub URL and register it as `name`."""

    reference: str
    name: str | None = None
    """Without it, as referred to."""
    choice: Choice = Choice()
    register: bool = True
    """Make a model of it when it is here; else the files are only fetched."""
    wishes: Wishes = Wishes()
    """What is said about the model; the rest is guessed."""


class DownloadRef(Record):
    """Which download."""

    download: str


class Download(Record):
    """One download, as kept in its bucket and as sent with every progress message."""

    download: str
    reference: str
    model: str
    """The name under which it is registered when it is there."""
    state: DownloadState
    created_at: float
    changed_at: float
    quant: str | None = None
    revision: str | None = None
    """The commit that is fetched."""
    files: tuple[str, ...] = ()
    files_done: int = 0
    bytes_total: int | None = None
    bytes_done: int = 0
    speed_bytes_s: float | None = None
    """Smoothed over the last seconds."""
    eta_s: float | None = None
    choice: Choice = Choice()
    register: bool = True
    wishes: Wishes = Wishes()
    error: ErrorDetail | None = None
