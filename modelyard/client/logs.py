"""Log lines: of one instance or model, and a search over all that engines and services printed.

A line belongs to the time at which it was read; its message is stored a moment later.
"""

import collections
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import NamedTuple

import msgspec
from nats.aio.msg import Msg

from modelyard.bus import logs, reads
from modelyard.bus.connection import Bus
from schemas import buckets, streams, subjects
from schemas.errors import BadRequest, NotFound
from schemas.instances import Instance
from schemas.logs import LogLevel, LogLine, LogOrder, LogPage, LogQuery, MatchedLine
from schemas.models import find_model

log = logs.get(__name__)

MAX_LINES = 1000
"""In one page."""
_WINDOW = 256
_LONGEST_WINDOW = 4096
_PAGE_BYTES = 2 * 1024 * 1024
_MAX_SCANNED = 20_000
"""Messages that are read for one page; a page that needs more is short, and its cursor continues."""
_MAX_DELAY_S = 600.0
"""How long after a line was read its message may be stored: the broker may have been unreachable."""
_STREAM = streams.LOGS.name
_HEAD_CHARS = 400

_PATTERNS = {
    LogLevel.ERROR: r"\b(error|fatal|critical|exception|traceback|failed|panic|abort(ed)?)\b|^E\b| E ",
    LogLevel.WARNING: r"\bwarn(ing)?\b|^W\b| W ",
    LogLevel.DEBUG: r"\b(debug|trace)\b|^D\b| D ",
}


def level_of(line: LogLine) -> LogLevel:
    """The line's own level, else one guessed from its text: engines have no common form."""
    if line.level is not None:
        return LogLevel.__members__.get(
            line.level.upper(), LogLevel.ERROR if line.level == "critical" else LogLevel.INFO
        )
    head = line.text[:_HEAD_CHARS]
    matching = (level for level, pattern in _PATTERNS.items() if re.search(pattern, head, re.I))
    return next(matching, LogLevel.INFO)


async def instance_lines(
    bus: Bus, name: str, *, since: float | None = None, grep: str | None = None, follow: bool = False
) -> AsyncGenerator[LogLine, None]:
    """The lines of the instance `name`, or of the model `name`; `grep`: only those that contain this text.

    Of a model, those of its newest instance; with `since` (unix seconds) those of all instances since then.
    """
    instance, model = await _resolve(bus, name)
    if since is None:
        model = None
    tokens = {"instance": instance} if model is None else {}
    batches = reads.replay(bus, subjects.INSTANCE_LOG, since=since, follow=follow, **tokens)
    text = (grep or "").casefold()
    with reads.as_yard_errors():
        async with aclosing(batches):
            async for batch in batches:
                if model in (None, batch.payload.model):
                    for line in batch.payload.lines:
                        if text in line.text.casefold():
                            yield line


async def _resolve(bus: Bus, name: str) -> tuple[str, str | None]:
    """The instance that `name` stands for, and its model unless `name` is an instance; else NotFound."""
    known = await reads.read_bucket(bus, buckets.INSTANCES)
    if name in known:
        return name, None
    spec = find_model(name, await reads.read_bucket(bus, buckets.MODELS))
    model = spec.name if spec else name
    for instances in (list(known.values()), await _past_instances(bus)):
        own = [instance for instance in instances if instance.model == model]
        if own:
            return max(own, key=lambda instance: instance.changed_at).instance, model
        if any(instance.instance == name for instance in instances):
            return name, None
    sentence = "The model {} has not run in the last days." if spec else "There is no model or instance {}."
    raise NotFound(sentence.format(name), param="model")


async def _past_instances(bus: Bus) -> list[Instance]:
    changed = subjects.INSTANCE_CHANGED
    messages = await reads.read_stream(bus, streams.EVENTS.name, changed.wildcard)
    return [changed.decode(msg.data) for msg in messages]


class _Position(NamedTuple):
    """Where a line is: the sequence of its message, and its number in there."""

    sequence: int
    number: int

    @classmethod
    def from_cursor(cls, cursor: str) -> "_Position":
        match = re.fullmatch(r"(\d{1,18})\.(\d{1,9})", cursor)
        if match is None:
            raise BadRequest("This cursor did not come from here.", param="cursor")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.sequence}.{self.number}"


_Match = tuple[_Position, MatchedLine]


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
    position = _Position.from_cursor(cursor) if cursor else None
    _subject(query)
    if order is LogOrder.OLDEST:
        return await _search_forward(bus, query, limit, position)
    return await _search_backward(bus, query, limit, position)


async def search_all(
    bus: Bus, query: LogQuery, *, order: LogOrder = LogOrder.OLDEST
) -> AsyncGenerator[MatchedLine, None]:
    """Every line that matches, page by page."""
    cursor: str | None = None
    while True:
        page = await search(bus, query, order=order, limit=MAX_LINES, cursor=cursor)
        for line in page.lines:
            yield line
        cursor = page.cursor
        if cursor is None:
            return


async def follow_search(bus: Bus, query: LogQuery) -> AsyncGenerator[MatchedLine, None]:
    """Every line that matches since `query.since`, and then new ones, for ever."""
    subject = _subject(query)
    with reads.as_yard_errors():
        async with aclosing(reads.stored_messages(bus, streams.LOGS, subject, since=query.since)) as messages:
            async for msg in messages:
                for _, line in _matches(query, msg, msg.subject, 0):
                    yield line


async def _search_forward(bus: Bus, query: LogQuery, limit: int, position: _Position | None) -> LogPage:
    first = (
        position.sequence if position else await reads.first_sequence_since(bus, _STREAM, query.since or 0.0)
    )
    if first is None:
        return LogPage(lines=())
    end = await _end_sequence(bus, query)
    matches: list[_Match] = []
    scanned, cursor = 0, None
    async with aclosing(_messages(bus, query, first, end)) as messages:
        async for sequence, msg in messages:
            matching = _matches(query, msg, (msg.headers or {})["Nats-Subject"], sequence)
            matches += [match for match in matching if position is None or match[0] > position]
            scanned += 1
            if len(matches) > limit:
                break
            if scanned >= _MAX_SCANNED:
                cursor = f"{sequence + 1}.0"
                break
    return _page(matches, limit, cursor)


async def _search_backward(bus: Bus, query: LogQuery, limit: int, position: _Position | None) -> LogPage:
    first = await reads.first_sequence_since(bus, _STREAM, query.since or 0.0)
    # The line at the cursor was returned already; those before it may be in the same message.
    end = position.sequence + 1 if position else await _end_sequence(bus, query)
    matches: list[_Match] = []
    window, scanned = _WINDOW, 0
    while first is not None and end > first and scanned < _MAX_SCANNED:
        begin = max(first, end - window)
        newest = collections.deque[_Match](maxlen=limit + 1 - len(matches))
        async with aclosing(_messages(bus, query, begin, end)) as messages:
            async for sequence, msg in messages:
                matching = _matches(query, msg, (msg.headers or {})["Nats-Subject"], sequence)
                newest.extend(match for match in matching if position is None or match[0] < position)
        matches += reversed(newest)
        if len(matches) > limit:
            break
        scanned += end - begin
        end, window = begin, min(2 * window, _LONGEST_WINDOW)
    more = first is not None and end > first
    return _page(matches, limit, f"{end}.0" if more else None)


def _page(matches: list[_Match], limit: int, cursor: str | None) -> LogPage:
    """The first `limit` matches; `cursor` is where a page continues that is not full."""
    if len(matches) > limit:
        cursor = str(matches[limit - 1][0])
    return LogPage(lines=tuple(line for _, line in matches[:limit]), cursor=cursor)


async def _end_sequence(bus: Bus, query: LogQuery) -> int:
    """After the last message that may have a line of the query."""
    if query.until is not None:
        end = await reads.first_sequence_since(bus, _STREAM, query.until + _MAX_DELAY_S)
        if end is not None:
            return end
    with reads.as_yard_errors():
        return (await bus.js.stream_info(_STREAM)).state.last_seq + 1


async def _messages(bus: Bus, query: LogQuery, first: int, end: int) -> AsyncGenerator[tuple[int, Msg], None]:
    """Messages that may have a line of the query, from `first` to before `end`."""
    batch = max(1, min(_WINDOW, end - first))
    pages = reads.read_pages(bus, _STREAM, _subject(query), first=first, batch=batch, max_bytes=_PAGE_BYTES)
    async with aclosing(pages):
        async for page in pages:
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


def _matches(query: LogQuery, msg: Msg, subject: str, sequence: int) -> Iterator[_Match]:
    try:
        node, source, model, lines = _read(subject, msg.data)
    except (msgspec.DecodeError, ValueError) as error:
        log.debug("log_message_invalid", subject=subject, error=str(error))
        return
    text = (query.text or "").casefold()
    for number, line in enumerate(lines, 1):
        about, level = model or line.model, level_of(line)
        if (
            query.model in (None, about)
            and (query.level is None or level >= query.level)
            and (query.since or 0.0) <= line.at < (query.until or float("inf"))
            and text in line.text.casefold()
        ):
            name = level.name.lower()
            found = MatchedLine(at=line.at, node=node, text=line.text, level=name, source=source, model=about)
            yield _Position(sequence, number), found


def _read(subject: str, data: bytes) -> tuple[str, str, str | None, tuple[LogLine, ...]]:
    try:
        tokens = subjects.SERVICE_LOG.parse(subject)
    except ValueError:
        tokens, batch = subjects.INSTANCE_LOG.parse(subject), subjects.INSTANCE_LOG.decode(data)
        return tokens["node"], tokens["instance"], batch.model, batch.lines
    return tokens["node"], tokens["service"], None, subjects.SERVICE_LOG.decode(data).lines
