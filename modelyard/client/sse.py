"""Server-sent events out of bytes that come in pieces, cut anywhere."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from schemas.errors import EngineFailed, ErrorBody, from_body

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class Events:
    """Takes pieces, gives the data of every event that is complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of the events that `piece` completes. Comments are left out."""
        *blocks, self._rest = _BLANK_LINE.split(self._rest + piece)
        for block in blocks:
            lines = [line[5:].removeprefix(b" ") for line in block.splitlines() if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


def delta(data: bytes) -> str:
    """The text in one chunk of a chat completion; an error in its place is raised."""
    if data == b"[DONE]":
        return ""
    try:
        chunk: Any = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise EngineFailed("The answer has a piece that is not JSON.") from error
    if not isinstance(chunk, dict):
        raise EngineFailed("The answer has a piece that is not a chunk of a chat completion.")
    if "error" in chunk:
        raise _error(data)
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


def _error(data: bytes) -> Exception:
    try:
        return from_body(msgspec.json.decode(data, type=ErrorBody))
    except msgspec.DecodeError:
        return EngineFailed("The engine broke off with an error that cannot be read.")
