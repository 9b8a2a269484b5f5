"""Server-sent events out of bytes that come in pieces, cut anywhere."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from schemas.errors import BY_CODE, BadRequest, EngineFailed, ErrorBody, YardError, from_body

DONE = b"[DONE]"
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class Events:
    """Takes pieces, gives the data of every event that is complete."""

    def __init__(self) -> None:
        self.rest = b""
        """What came after the last complete event."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of the events that `piece` completes. Comments are left out."""
        *blocks, self.rest = _BLANK_LINE.split(self.rest + piece)
        for block in blocks:
            lines = [line[5:].removeprefix(b" ") for line in block.splitlines() if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


def delta(data: bytes) -> str:
    """The text in one chunk of a chat completion; an error in its place is raised."""
    if data == DONE:
        return ""
    try:
        chunk: Any = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise EngineFailed("The answer has a piece that is not JSON.") from error
    if not isinstance(chunk, dict):
        raise EngineFailed("The answer has a piece that is not a chunk of a chat completion.")
    if "error" in chunk:
        raise read_error(data) or EngineFailed("The engine broke off with an error that cannot be read.")
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


def cut_short(rest: bytes) -> YardError:
    """Why an answer ended without saying so: an engine that refuses a request says it in plain JSON."""
    return read_error(rest) or EngineFailed("The answer ended before it was complete.")


def read_error(data: bytes) -> YardError | None:
    """The error that `data` is in the one shape; with a code that only the engine knows, a bad request."""
    try:
        body = msgspec.json.decode(data, type=ErrorBody)
    except msgspec.DecodeError:
        return None
    return from_body(body) if body.error.code in BY_CODE else BadRequest(body.error.message)
