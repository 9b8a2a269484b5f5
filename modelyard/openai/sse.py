"""Server-sent events by the WHATWG grammar, from bytes that come in pieces cut anywhere."""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

from schemas.errors import EngineFailed

MAX_EVENT_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
# Atomic groups: a CRLF is one line end, never a CR and an LF with an empty line between.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_BLANK_LINE = 4
_ONE_DATA_LINE = re.compile(rb"data: ?([^\r\n]*)[\r\n]+")
_MAX_RETRY_DIGITS = 18
_MESSAGE = "message"


class EventTooLarge(Exception):
    """An event that exceeds the limit of its parser."""


class SseEvent(NamedTuple):
    """One event of a stream."""

    raw: bytes
    """The bytes as they came, the blank line that ends them included."""
    data: bytes | None
    """The lines of its data, joined with LF; None without any, as in a comment."""
    type: str = _MESSAGE
    id: str = ""
    """The last event id that the stream set, in this event or before."""
    retry_ms: int | None = None
    """The reconnection time that this event sets."""


class EventParser:
    """Splits a stream into events. The raw bytes of all events and `rest` are what was fed."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._at_start = True
        self._last_id = ""

    @property
    def rest(self) -> bytes:
        """The bytes after the last complete event."""
        return bytes(self._buffer)

    def feed(self, piece: bytes) -> list[SseEvent]:
        """The events that `piece` completes; EventTooLarge if one exceeds the limit."""
        scan_from = max(0, len(self._buffer) - _LONGEST_BLANK_LINE + 1)
        if self._buffer:
            self._buffer += piece
            buffer: bytes | bytearray = self._buffer
        else:
            buffer = piece
        events, start = [], 0
        for end in [match.end() for match in _BLANK_LINE.finditer(buffer, scan_from)]:
            events.append(self._parse(bytes(buffer[start:end])))
            start = end
        if buffer is self._buffer:
            del self._buffer[:start]
        elif start < len(piece):
            self._buffer += piece[start:]
        if len(self._buffer) > self._max_event_bytes:
            raise self._too_large()
        return events

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"The stream has an event of more than {self._max_event_bytes} bytes.")

    def _parse(self, raw: bytes) -> SseEvent:
        if len(raw) > self._max_event_bytes:
            raise self._too_large()
        if match := _ONE_DATA_LINE.fullmatch(raw):
            self._at_start = False
            return SseEvent(raw, match[1], _MESSAGE, self._last_id)
        text = raw.removeprefix(_BOM) if self._at_start else raw
        self._at_start = False
        data, event_type, retry_ms = list[bytes](), "", None
        # A CR at the end of a piece completes its event; its LF then begins the next one, as an empty line.
        for line in text.splitlines():
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event_type = value.decode(errors="replace")
            elif name == b"id" and b"\0" not in value:
                self._last_id = value.decode(errors="replace")
            elif name == b"retry" and value.isdigit():
                retry_ms = int(value[:_MAX_RETRY_DIGITS])
        joined = b"\n".join(data) if data else None
        return SseEvent(raw, joined, event_type or _MESSAGE, self._last_id, retry_ms)


async def read_data(pieces: AsyncIterator[bytes], parser: EventParser | None = None) -> AsyncIterator[bytes]:
    """The data of every event of a stream; EngineFailed for one that is too large."""
    parser = parser or EventParser()
    try:
        async for piece in pieces:
            for event in parser.feed(piece):
                if event.data is not None:
                    yield event.data
    except EventTooLarge as error:
        raise EngineFailed(str(error)) from error


def encode_event(data: bytes, event_type: str | None = None) -> bytes:
    """An event of one line of data."""
    head = b"" if event_type is None else b"event: %b\n" % event_type.encode()
    return b"%bdata: %b\n\n" % (head, data)
