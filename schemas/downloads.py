"""From the hub to the disk."""

from enum import StrEnum

from schemas.errors import ErrorDetail
from schemas.record import Record


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
    """Fetch `REPO[:QUANT][@REVISION]` or a hub URL and register it under `name` (default: as referred to)."""

    reference: str
    name: str | None = None


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
    error: ErrorDetail | None = None
