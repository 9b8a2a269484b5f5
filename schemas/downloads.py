"""From the hub to the disk."""

from enum import StrEnum

import msgspec

from schemas.base import Record
from schemas.errors import ErrorDetail
from schemas.hub import Choice
from schemas.registry import ModelOverrides


class DownloadState(StrEnum):
    """The state of a download; `finished`, `failed` and `cancelled` are final."""

    QUEUED = "queued"
    PAUSED = "paused"
    """Out of the queue until it is resumed; received data stays on disk."""
    RESOLVING = "resolving"
    """Asking the hub which files there are."""
    TRANSFERRING = "transferring"
    FINISHED = "finished"
    """All bytes received and verified, the model registered."""
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({DownloadState.FINISHED, DownloadState.FAILED, DownloadState.CANCELLED})


class StartDownload(Record):
    """Fetch `REPO[:QUANT][@REVISION]`, `REPO/FILE` or a hub URL and register it as `name`."""

    reference: str
    name: str | None = None
    """The model's name; None: `REPO:QUANT`."""
    choice: Choice = Choice()
    register: bool = True
    """Make a model of it when it is here; else the files are only fetched."""
    overrides: ModelOverrides = ModelOverrides()
    """Fields of the model that the user sets; the rest is derived from its files."""
    node: str | None = None
    """The machine that fetches it; default: the yard's first."""
    limit_bytes_s: int | None = None
    """The most that it takes of the network; None: what its machine may take."""


class AddDownloads(Record):
    """Fetch everything that a pasted text names, separated by lines, spaces or commas."""

    text: str
    choice: Choice = Choice()
    register: bool = True
    node: str | None = None
    limit_bytes_s: int | None = None


class DownloadRef(Record):
    """Which download."""

    download: str


class MoveDownload(Record):
    """Give a waiting download another place in its machine's queue; 0 is the next to begin."""

    download: str
    to: int = 0


class LimitDownload(Record):
    """The most that a download takes of the network from now on; None: what its machine may take."""

    download: str
    limit_bytes_s: int | None = None


class Download(Record):
    """A download, as stored in its bucket and as sent in progress messages."""

    download: str
    reference: str
    model: str
    """The name under which the model is registered on completion."""
    state: DownloadState
    created_at: float
    changed_at: float
    node: str = ""
    """The machine that fetches it."""
    order: float = 0.0
    """Position in the queue of a node: smaller numbers start first."""
    limit_bytes_s: int | None = None
    quant: str | None = None
    is_default_quant: bool = False
    """Whether the same files would have been selected without a quant in the reference."""
    revision: str | None = None
    """The commit that is fetched."""
    files: tuple[str, ...] = ()
    files_done: int = 0
    bytes_total: int | None = None
    bytes_done: int = 0
    received: dict[str, int] = msgspec.field(default_factory=dict)
    """Bytes that came over the network, from the `hub` or a node by its name; twice fetched ones twice."""
    speed_bytes_s: float | None = None
    """Smoothed over the last seconds."""
    eta_s: float | None = None
    choice: Choice = Choice()
    register: bool = True
    overrides: ModelOverrides = ModelOverrides()
    problem: str | None = None
    """Why nothing arrives just now, while it is tried again."""
    error: ErrorDetail | None = None


class ReferenceResult(Record):
    """The result for one reference: a download, or the reason why there is none."""

    reference: str
    download: Download | None = None
    error: ErrorDetail | None = None


class DownloadsAdded(Record):
    """The results for all references, in their order."""

    added: tuple[ReferenceResult, ...]
