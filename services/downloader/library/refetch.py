"""Fetching single files, from other nodes or the hub, in a process of its own.

Run as `python -m services.downloader.library.refetch`: an order on stdin, and answers to what it asks about
other nodes; messages on stdout. The hub's token comes in the environment.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from modelyard.bus import logs
from modelyard.host.paths import resolve_inside
from modelyard.host.processes import die_with_parent
from services.downloader import hub
from services.downloader.disk import MARGIN_BYTES
from services.downloader.errors import DownloadError
from services.downloader.source import Source
from services.downloader.worker_messages import Distrust, Seek, SeekRepo
from services.downloader.worker_orders import Orders


class WantedFile(Struct, frozen=True, kw_only=True):
    """One file: what it must be, where it goes in the store, and where it is on the hub, if it is there."""

    size_bytes: int
    sha256: str
    path: str
    repo: str | None = None
    revision: str | None = None
    remote: str | None = None

    @property
    def url(self) -> str | None:
        """Where the hub has it."""
        if self.repo is None or self.revision is None or self.remote is None:
            return None
        return hub.file_url(self.repo, self.remote, self.revision)


class Order(Struct, frozen=True, kw_only=True):
    """What to fetch into which store."""

    root: str
    files: tuple[WantedFile, ...]
    segments: int = 1
    margin_bytes: int = MARGIN_BYTES


class Fetching(Struct, frozen=True, kw_only=True, tag_field="type", tag="fetching"):
    """So much of this file is here, and so much came from the `hub` and from nodes in all."""

    path: str
    bytes_done: int
    received: dict[str, int]


class Fetched(Struct, frozen=True, kw_only=True, tag_field="type", tag="fetched"):
    """This file is here, and its sha256 is right."""

    path: str
    received: dict[str, int]


class Refused(Struct, frozen=True, kw_only=True, tag_field="type", tag="refused"):
    """It did not work; the last message."""

    code: str
    message: str


Message = Fetching | Fetched | Refused | Seek | Distrust
MESSAGES: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def main() -> int:
    """The whole life of the process."""
    die_with_parent(signal.SIGKILL)
    logs.configure("info", to=sys.stderr)  # standard output is for messages
    hub.quiet_library()
    # Without a buffer: a thread that waits in one would not let the process end.
    lines = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 - to the very end
    order = msgspec.json.decode(lines.readline(), type=Order)
    try:
        asyncio.run(_fetch(order, Orders(lines, _send)))
    except DownloadError as error:
        _send(Refused(code=error.code, message=error.sentence))
        return 1
    except ValueError as error:
        _send(Refused(code="unsafe_path", message=str(error)))
        return 1
    return 0


async def _fetch(order: Order, orders: Orders) -> None:
    # Who only wants the messages of this module need not load an HTTP client.
    from services.downloader.transfer import Options, fetch_file, open_session

    authorization = hub.authorization()
    told = _Told()
    options = Options(
        segments=order.segments,
        margin_bytes=order.margin_bytes,
        on_received=told.on_received,
        seek=orders.seek,
        on_lie=lambda source, nodes: _send(Distrust(sha256=source.sha256 or "", nodes=nodes)),
    )
    async with open_session() as session:
        for file in order.files:
            source = Source(
                url=file.url, size_bytes=file.size_bytes, sha256=file.sha256, authorization=authorization
            )
            told.start(file.path)
            place = resolve_inside(Path(order.root), file.path)
            await fetch_file(session, source, place, on_bytes=told.on_bytes, options=options)
            _send(Fetched(path=file.path, received=told.received))


class _Told:
    """Tells how far a file is, once in a while."""

    _EVERY_S = 0.25

    def __init__(self) -> None:
        self.received: dict[str, int] = {}
        self._path = ""
        self._told_at = float("-inf")

    def start(self, path: str) -> None:
        """The next file."""
        self._path = path

    def on_received(self, source: str, count_bytes: int) -> None:
        """So many bytes came from there."""
        self.received[source] = self.received.get(source, 0) + count_bytes

    def on_bytes(self, done_bytes: int) -> None:
        """So many bytes of the file are here."""
        if time.monotonic() - self._told_at >= self._EVERY_S:
            self._told_at = time.monotonic()
            _send(Fetching(path=self._path, bytes_done=done_bytes, received=self.received))


def _send(message: Message | SeekRepo) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
