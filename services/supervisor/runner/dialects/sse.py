"""Server-sent events, as bytes: cut a stream into whole events without changing one."""

import re

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")
MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLarge(Exception):
    """An event that does not end."""


class EventSplitter:
    """Collects bytes and gives out whole events, each with the blank line that ends it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that `data` completes."""
        buffer = self._rest + data
        events, start = [], 0
        for end in _END.finditer(buffer):
            events.append(buffer[start : end.end()])
            start = end.end()
        self._rest = buffer[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge
        return events


def event_data(event: bytes) -> bytes | None:
    """The data of an event, `data:` with or without a space; None for a comment."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def write_event(data: bytes) -> bytes:
    """An event of one line of data."""
    return b"data: " + data + b"\n\n"
