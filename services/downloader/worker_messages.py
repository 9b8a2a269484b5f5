"""What a worker is told on stdin and what it tells on stdout: one JSON object a line.

It is told a Job, and after its Resolved a Go, which may come much later; then Limits. What it asks about
other nodes is answered. When its stdin ends, its parent is gone, and so is it.
"""

import msgspec
from msgspec import Struct

from schemas.base import Format
from schemas.hub import Choice
from services.downloader.disk import MARGIN_BYTES
from services.downloader.selection import RemoteFile


class Job(Struct, frozen=True, kw_only=True):
    """One download; folder and store_root are absolute. The token comes in the environment, never here."""

    repo: str
    quant: str | None = None
    revision: str | None = None
    file: str | None = None
    choice: Choice = Choice()
    folder: str
    store_root: str
    margin_bytes: int = MARGIN_BYTES
    segments: int = 1
    """Parts of a large file that come at the same time."""
    nodes: bool = False
    """Whether there are other nodes, and a parent that answers questions about them."""


class Go(Struct, frozen=True, kw_only=True, tag_field="type", tag="go"):
    """Fetch what was resolved; others_bytes is what other downloads still need of the disk."""

    others_bytes: int = 0
    limit_bytes_s: int | None = None


class Limit(Struct, frozen=True, kw_only=True, tag_field="type", tag="limit"):
    """The most that it may take of the network from now on."""

    limit_bytes_s: int | None = None


class Offer(Struct, frozen=True, kw_only=True):
    """A node that has a file, and the token that opens it there."""

    node: str
    url: str
    token: str

    def __repr__(self) -> str:
        return f"Offer({self.node!r}, {self.url!r})"


class Offers(Struct, frozen=True, kw_only=True, tag_field="type", tag="offers"):
    """Answers a Seek: who has the file."""

    sha256: str
    offers: tuple[Offer, ...] = ()


class Listing(Struct, frozen=True, kw_only=True, tag_field="type", tag="listing"):
    """Answers a SeekRepo: what other nodes have; no commit where that is nothing."""

    commit: str | None = None
    files: tuple[RemoteFile, ...] = ()


class Seek(Struct, frozen=True, kw_only=True, tag_field="type", tag="seek"):
    """Which nodes have this file?"""

    sha256: str
    size_bytes: int


class SeekRepo(Struct, frozen=True, kw_only=True, tag_field="type", tag="seek_repo"):
    """The hub does not answer: what have other nodes of this repository?"""

    repo: str
    revision: str | None = None


class Distrust(Struct, frozen=True, kw_only=True, tag_field="type", tag="distrust"):
    """These nodes gave bytes of a file that turned out to be wrong."""

    sha256: str
    nodes: tuple[str, ...]


class Resolved(Struct, frozen=True, kw_only=True, tag_field="type", tag="resolved"):
    """What will be fetched: model files in order, then the mmproj; paths are relative to the job's folder.

    Without a `model_path` the files make no model; `.` is the folder itself.
    """

    commit: str
    quant: str | None
    files: tuple[RemoteFile, ...]
    bytes_total: int
    missing_bytes: int
    """What is not on the disk yet."""
    model_path: str | None
    mmproj_path: str | None = None
    format: Format | None = None
    task: str | None = None
    """What the hub says that the model does."""
    is_default_quant: bool = False
    """Whether the files would be the same if nobody had named a quant."""


class Progress(Struct, frozen=True, kw_only=True, tag_field="type", tag="progress"):
    """Bytes of all files here now (less again if a file starts anew), and the file being fetched."""

    bytes_done: int
    file: str
    files_done: int


class Received(Struct, frozen=True, kw_only=True, tag_field="type", tag="received"):
    """Where this process has its bytes from: so many from the `hub`, or from a node by its name."""

    received: dict[str, int]


class Trouble(Struct, frozen=True, kw_only=True, tag_field="type", tag="problem"):
    """Nothing arrives just now, and it is tried again; a sentence for the user."""

    message: str


class Verified(Struct, frozen=True, kw_only=True, tag_field="type", tag="verified"):
    """This file is complete under its own name."""

    file: str


class Finished(Struct, frozen=True, kw_only=True, tag_field="type", tag="finished"):
    """All files are here and the model looks like one; the last message of a good transfer."""

    commit: str
    quant: str | None
    bytes_total: int
    model_path: str | None
    mmproj_path: str | None = None
    task: str | None = None


class Failed(Struct, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """The transfer is over; the last message of a bad one. message is a sentence for the user."""

    code: str
    message: str


Question = Seek | SeekRepo
WorkerMessage = Resolved | Progress | Received | Trouble | Verified | Finished | Failed | Question | Distrust
WorkerOrder = Go | Limit | Offers | Listing

JOB_DECODER = msgspec.json.Decoder(Job)
MESSAGE_DECODER: msgspec.json.Decoder[WorkerMessage] = msgspec.json.Decoder(WorkerMessage)
ORDER_DECODER: msgspec.json.Decoder[WorkerOrder] = msgspec.json.Decoder(WorkerOrder)
