"""What a worker is told on stdin and what it tells on stdout: one JSON object a line."""

import msgspec
from msgspec import Struct

from schemas.formats import Format
from schemas.hub import Choice
from services.downloader.disk import MARGIN_BYTES
from services.downloader.selection import RemoteFile


class Job(Struct, frozen=True, kw_only=True):
    """One transfer; folder and store_root are absolute. The token comes in the environment, never here."""

    repo: str
    quant: str | None = None
    revision: str | None = None
    file: str | None = None
    choice: Choice = Choice()
    folder: str
    store_root: str
    margin_bytes: int = MARGIN_BYTES


class Resolved(Struct, frozen=True, kw_only=True, tag_field="type", tag="resolved"):
    """What will be fetched: model files in order, then the mmproj; paths are relative to the job's folder.

    Without a `model_path` the files make no model; `.` is the folder itself.
    """

    commit: str
    quant: str | None
    files: tuple[RemoteFile, ...]
    bytes_total: int
    model_path: str | None
    mmproj_path: str | None = None
    format: Format | None = None
    task: str | None = None
    """What the hub says that the model does."""


class Progress(Struct, frozen=True, kw_only=True, tag_field="type", tag="progress"):
    """Bytes of all files here now (less again if a file starts anew), and the file being fetched."""

    bytes_done: int
    file: str
    files_done: int


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


WorkerMessage = Resolved | Progress | Verified | Finished | Failed

JOB_DECODER = msgspec.json.Decoder(Job)
MESSAGE_DECODER: msgspec.json.Decoder[WorkerMessage] = msgspec.json.Decoder(WorkerMessage)
