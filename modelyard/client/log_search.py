"""Finding lines in what engines and services printed: page by page, whatever the stream holds.

A line belongs to the time at which it was read; its message is stored a moment later.
"""

import collections
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import NamedTuple

import msgspec
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import as_yard_errors, first_sequence_since, read_pages, stored_messages
from schemas import streams, subjects
from schemas.errors import BadRequest
from schemas.logs import FoundLine, LogLevel, LogLine, LogOrder, LogPage, LogQuery

log = logs.get(__name__)

MAX_LINES = 1000
"""In one page."""
_WINDOW = 256
_LONGEST_WINDOW = 4096
_PAGE_BYTES = 2 * 1024 * 1024
_SCANNED = 20_000
"""Messages looked at for one page; where that is not enough, the page is short, and its cursor goes on."""
_LATE_S = 600.0
"""How long after a line was read its message may be stored: the broker may have been away."""
_STREAM = streams.LOGS.name

_ERROR = re.compile(r"\b(error|fatal|critical|exception|traceback|failed|panic|abort(ed)?)\b|^E\b| E ", re.I)
_WARNING = re.compile(r"\bwarn(ing)?\b|^W\b| W ", re.I)
_DEBUG = re.compile(r"\b(debug|trace)\b|^D\b| D ", re.I)


def level_of(line: LogLine) -> LogLevel:
    """As the line says it, else by its words: engines have no common form."""
    if line.level is not None:
        return LogLevel.__members__.get(
            line.level.upper(), LogLevel.ERROR if line.level == "critical" else LogLevel.INFO
        )
    head = line.text[:400]
    if _ERROR.search(head):
        return LogLevel.ERROR
    if _WARNING.search(head):
        return LogLevel.WARNING
    return LogLevel.DEBUG if _DEBUG.search(head) else LogLevel.INFO


class _Place(NamedTuple):
    """Where a line is: the sequence of its message, and its number in there."""

    sequence: int
    number: int

    @classmethod
    def read(cls, cursor: str) -> "_Place":
        match = re.fullmatch(r"(\d{1,18})\.(\d{1,9})", cursor)
        if match is None:
            raise BadRequest("This cursor did not come from here.", param="cursor")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.sequence}.{self.number}"


Found = tuple[_Place, FoundLine]


async def search(
    bus: Bus,
    query: LogQuery,
    *,
    order: LogOrder = LogOrder.NEWEST,
    limit: int = 200,
    cursor: str | None = None,
) -> LogPage:
    """One page of the lines that match; its cursor is where the next begins."""
    if not 1 <= limit <= MAX_LINES:
        raise BadRequest(f"`limit` is from 1 to {MAX_LINES}.", param="limit")
    place = _Place.read(cursor) if cursor else None
    _subject(query)
    if order is LogOrder.OLDEST:
        return await _forward(bus, query, limit, place)
    return await _backward(bus, query, limit, place)


async def every(
    bus: Bus, query: LogQuery, *, order: LogOrder = LogOrder.OLDEST
) -> AsyncGenerator[FoundLine, None]:
    """Every line that matches, a page after the other."""
    cursor: str | None = None
    while True:
        page = await search(bus, query, order=order, limit=MAX_LINES, cursor=cursor)
        for line in page.lines:
            yield line
        cursor = page.cursor
        if cursor is None:
            return


async def follow(bus: Bus, query: LogQuery) -> AsyncGenerator[FoundLine, None]:
    """Every line that matches since `query.since`, and then those that come."""
    subject = _subject(query)
    with as_yard_errors():
        async with aclosing(stored_messages(bus, streams.LOGS, subject, since=query.since)) as messages:
            async for msg in messages:
                for _, line in _lines(query, msg, msg.subject, 0):
                    yield line


async def _forward(bus: Bus, query: LogQuery, limit: int, place: _Place | None) -> LogPage:
    first = place.sequence if place else await _first(bus, query)
    if first is None:
        return LogPage(lines=())
    end = await _end(bus, query)
    found: list[Found] = []
    scanned = 0
    async with aclosing(_messages(bus, query, first, end)) as messages:
        async for sequence, msg in messages:
            found += [each for each in _found(query, sequence, msg) if place is None or each[0] > place]
            scanned += 1
            if len(found) > limit:
                return _page(found[:limit])
            if scanned >= _SCANNED:
                return LogPage(lines=tuple(line for _, line in found), cursor=f"{sequence + 1}.0")
    return LogPage(lines=tuple(line for _, line in found))


async def _backward(bus: Bus, query: LogQuery, limit: int, place: _Place | None) -> LogPage:
    first = await _first(bus, query)
    # The line at the cursor was given already; those before it may be in the same message.
    end = place.sequence + 1 if place else await _end(bus, query)
    found: list[Found] = []
    window, scanned = _WINDOW, 0
    while first is not None and end > first and scanned < _SCANNED:
        begin = max(first, end - window)
        newest = collections.deque[Found](maxlen=limit + 1 - len(found))
        async with aclosing(_messages(bus, query, begin, end)) as messages:
            async for sequence, msg in messages:
                newest.extend(
                    each for each in _found(query, sequence, msg) if place is None or each[0] < place
                )
        found += reversed(newest)
        if len(found) > limit:
            return _page(found[:limit])
        scanned += end - begin
        end, window = begin, min(2 * window, _LONGEST_WINDOW)
    more = first is not None and end > first
    return LogPage(lines=tuple(line for _, line in found), cursor=f"{end}.0" if more else None)


def _page(found: list[Found]) -> LogPage:
    return LogPage(lines=tuple(line for _, line in found), cursor=str(found[-1][0]))


async def _first(bus: Bus, query: LogQuery) -> int | None:
    """The sequence of the first message that may have a line of the query."""
    return await first_sequence_since(bus, _STREAM, query.since or 0.0)


async def _end(bus: Bus, query: LogQuery) -> int:
    """The sequence after the last message that may have a line of the query."""
    if query.until is not None:
        late = await first_sequence_since(bus, _STREAM, query.until + _LATE_S)
        if late is not None:
            return late
    with as_yard_errors():
        return (await bus.js.stream_info(_STREAM)).state.last_seq + 1


async def _messages(bus: Bus, query: LogQuery, first: int, end: int) -> AsyncGenerator[tuple[int, Msg], None]:
    """Messages that may have a line of the query, from `first` to before `end`."""
    batch = max(1, min(_WINDOW, end - first))
    found = read_pages(bus, _STREAM, _subject(query), first=first, batch=batch, max_bytes=_PAGE_BYTES)
    async with aclosing(found):
        async for page in found:
            for msg in page:
                sequence = int((msg.headers or {})["Nats-Sequence"])
                if sequence >= end:
                    return
                yield sequence, msg


def _subject(query: LogQuery) -> str:
    node = {"node": query.node} if query.node else {}
    try:
        if query.instance:
            return subjects.INSTANCE_LOG.matching(**node, instance=query.instance)
        if query.service:
            return subjects.SERVICE_LOG.matching(**node, service=query.service)
        return subjects.INSTANCE_LOG.matching(**node).rpartition(".")[0] + ".>"
    except ValueError as error:
        raise BadRequest(f"{error}.") from error


def _found(query: LogQuery, sequence: int, msg: Msg) -> Iterator[Found]:
    subject = (msg.headers or {})["Nats-Subject"]
    for number, line in _lines(query, msg, subject, 1):
        yield _Place(sequence, number), line


def _lines(query: LogQuery, msg: Msg, subject: str, begin: int) -> Iterator[tuple[int, FoundLine]]:
    try:
        node, source, model, lines = _read(subject, msg.data)
    except (msgspec.DecodeError, ValueError) as error:
        log.debug("log_not_understood", subject=subject, error=str(error))
        return
    wanted = (query.text or "").casefold()
    for number, line in enumerate(lines, begin):
        about, level = model or line.model, level_of(line)
        if (
            query.model in (None, about)
            and (query.level is None or level >= query.level)
            and (query.since or 0.0) <= line.at < (query.until or float("inf"))
            and wanted in line.text.casefold()
        ):
            yield (
                number,
                FoundLine(
                    at=line.at,
                    node=node,
                    text=line.text,
                    level=level.name.lower(),
                    source=source,
                    model=about,
                ),
            )


def _read(subject: str, data: bytes) -> tuple[str, str, str | None, tuple[LogLine, ...]]:
    """Whose lines they are, and the lines."""
    try:
        tokens = subjects.SERVICE_LOG.parse(subject)
    except ValueError:
        tokens, batch = subjects.INSTANCE_LOG.parse(subject), subjects.INSTANCE_LOG.decode(data)
        return tokens["node"], tokens["instance"], batch.model, batch.lines
    return tokens["node"], tokens["service"], None, subjects.SERVICE_LOG.decode(data).lines
