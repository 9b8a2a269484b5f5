"""Fetching single files again, in a process of its own: an order on stdin, messages on stdout.

Run as `python -m services.downloader.library.refetch`. The token comes in the environment.
"""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from modelyard.paths import resolve_inside
from modelyard.processes import die_with_parent
from services.downloader import hub
from services.downloader.errors import DownloadError
from services.downloader.source import Source
from services.downloader.transfer import fetch_file, open_session


class WantedFile(Struct, frozen=True, kw_only=True):
    """One file: where it is on the hub, what it must be, and where it goes in the store."""

    repo: str
    revision: str
    remote: str
    size_bytes: int
    sha256: str
    path: str


class Order(Struct, frozen=True, kw_only=True):
    """What to fetch into which store."""

    root: str
    files: tuple[WantedFile, ...]


class Fetching(Struct, frozen=True, kw_only=True, tag_field="type", tag="fetching"):
    """So much of this file is here."""

    path: str
    bytes_done: int


class Fetched(Struct, frozen=True, kw_only=True, tag_field="type", tag="fetched"):
    """This file is here, and its sha256 is right."""

    path: str


class Refused(Struct, frozen=True, kw_only=True, tag_field="type", tag="refused"):
    """It did not work; the last message."""

    code: str
    message: str


Message = Fetching | Fetched | Refused
MESSAGES: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def main() -> int:
    """The whole life of the process."""
    die_with_parent(signal.SIGKILL)
    hub.quiet_library()
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    try:
        asyncio.run(_fetch(order))
    except DownloadError as error:
        _send(Refused(code=error.code, message=error.sentence))
        return 1
    except ValueError as error:
        _send(Refused(code="unsafe_path", message=str(error)))
        return 1
    return 0


async def _fetch(order: Order) -> None:
    authorization = hub.authorization()
    async with open_session() as session:
        for file in order.files:
            source = Source(
                url=hub.file_url(file.repo, file.remote, file.revision),
                size_bytes=file.size_bytes,
                sha256=file.sha256,
                authorization=authorization,
            )
            told = _Told(file.path)
            await fetch_file(session, source, resolve_inside(Path(order.root), file.path), on_bytes=told)
            _send(Fetched(path=file.path))


class _Told:
    """Tells how far a file is, once in a while."""

    _STEP_BYTES = 16 * 1024 * 1024

    def __init__(self, path: str) -> None:
        self._path = path
        self._last_bytes = 0

    def __call__(self, done_bytes: int) -> None:
        if abs(done_bytes - self._last_bytes) >= self._STEP_BYTES:
            self._last_bytes = done_bytes
            _send(Fetching(path=self._path, bytes_done=done_bytes))


def _send(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
