"""From a question to a report."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.errors import BadRequest
from schemas.usage import Latency, RecordsPage, RecordsQuery, UsageQuery, UsageReport, UsageRow
from services.monitor.calendar import buckets
from services.monitor.costs.money import spelled
from services.monitor.usage.latency import percentiles
from services.monitor.usage.question import Question
from services.monitor.usage.reader import Sums, UsageReader
from services.monitor.usage.series import Series

MAX_RECENT = 1000
MAX_BUCKETS = 20_000
MAX_PAGE = 500
Group = tuple[object, ...]
"""Where the bucket begins, or None; then the values of the dimensions asked for."""


class _Span(NamedTuple):
    at: float | None
    start: float
    end: float


@dataclass
class _Cell:
    """What a group adds up to."""

    sums: Sums = (0,) * 10
    duration: Mapping[int, int] = field(default_factory=dict)
    first_token: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: Collection["_Cell"]) -> "_Cell":
        """All of them together."""
        if not cells:
            return cls()
        duration, first_token = Counter[int](), Counter[int]()
        for cell in cells:
            if cell.duration or cell.first_token:
                duration.update(cell.duration)
                first_token.update(cell.first_token)
        return cls(tuple(map(sum, zip(*(cell.sums for cell in cells), strict=True))), duration, first_token)

    def row(self, *, latency: bool, **group: object) -> UsageRow:
        failed, cancelled, requests, prompt, cached, completion, loaded_ms, energy_mwh, whole, pico = (
            self.sums
        )
        return UsageRow(
            **group,  # type: ignore[arg-type]  # the dimensions, by their names
            requests=requests,
            failed=failed,
            cancelled=cancelled,
            prompt_tokens=prompt,
            cached_tokens=cached,
            completion_tokens=completion,
            loaded_s=loaded_ms / 1000,
            energy_wh=energy_mwh / 1000,
            cost=spelled(whole, pico),
            latency=self._latency() if latency else None,
        )

    def _latency(self) -> Latency:
        return Latency(duration=percentiles(self.duration), first_token=percentiles(self.first_token))


def report(
    reader: UsageReader, query: UsageQuery, asked: Question, *, now: float, currency: str
) -> UsageReport:
    """Answer the query from one state of the file."""
    if not 0 <= query.recent <= MAX_RECENT:
        raise BadRequest(f"`recent` must be from 0 to {MAX_RECENT}.", param="recent")
    if len(set(query.by)) < len(query.by):
        raise BadRequest("`by` names something twice.", param="by")
    reader.begin()
    try:
        table = reader.series.all()
        only = asked.numbers(table)
        spans = _spans(reader, query, asked, now)
        wanted = table if only is None else {number: table[number] for number in only}
        cells = _cells(reader, query, asked, spans, wanted)
        recent = reader.recent(asked.start, asked.end, only, query.recent) if query.recent else ()
    finally:
        reader.end()
    return UsageReport(
        rows=tuple(_rows(query, cells)),
        total=_Cell.of(cells.values()).row(latency=query.latency),
        tz=asked.tz.key,
        currency=currency,
        since=asked.start or None,
        until=query.until,
        buckets=tuple(span.at for span in spans if span.at is not None),
        recent=recent,
    )


def _spans(reader: UsageReader, query: UsageQuery, asked: Question, now: float) -> list[_Span]:
    """One for the whole period, or one a bucket. Open ends are where there is nothing more."""
    if query.step is None:
        return [_Span(None, asked.start, asked.end)]
    start = max(asked.start, reader.oldest() or asked.start or now)
    end = min(asked.end, max(now, reader.newest() or now))
    spans: list[_Span] = []
    for low, high in buckets(start, end, query.step, asked.tz):
        if len(spans) == MAX_BUCKETS:
            raise BadRequest(
                f"That are more than {MAX_BUCKETS} buckets; ask for a shorter time or a larger step.",
                param="step",
            )
        spans.append(_Span(low, max(low, asked.start), min(high, asked.end)))
    return spans


def _cells(
    reader: UsageReader,
    query: UsageQuery,
    asked: Question,
    spans: Iterable[_Span],
    wanted: dict[int, Series],
) -> dict[Group, _Cell]:
    """SQLite adds up what is of one group and span."""
    keys = {number: tuple(getattr(series, name) for name in query.by) for number, series in wanted.items()}
    places = {key: place for place, key in enumerate(dict.fromkeys(keys.values()))}
    named = list(places)
    reader.group({*query.by, *asked.wanted}, {number: places[key] for number, key in keys.items()})
    cells: dict[Group, _Cell] = defaultdict(_Cell)
    for span in spans:
        for place, sums in reader.sums(span.start, span.end).items():
            cells[(span.at, *named[place])].sums = sums
        for kind in ("duration", "first_token") if query.latency else ():
            for place, bins in reader.latencies(kind, span.start, span.end).items():
                setattr(cells[(span.at, *named[place])], kind, bins)
    return cells


def _rows(query: UsageQuery, cells: dict[Group, _Cell]) -> Iterable[UsageRow]:
    def place(found: tuple[Group, _Cell]) -> tuple[object, ...]:
        group, cell = found
        return (group[0] or 0.0, -cell.sums[2], group[1:])

    names = [name.value for name in query.by]
    for (at, *told), cell in sorted(cells.items(), key=place):
        if any(cell.sums):
            named = {name: value or None for name, value in zip(names, told, strict=True)}
            yield cell.row(latency=query.latency, at=at, **named)


def records(reader: UsageReader, query: RecordsQuery, asked: Question, *, currency: str) -> RecordsPage:
    """One page of records. What is added meanwhile comes in its place, or not at all."""
    if not 1 <= query.limit <= MAX_PAGE:
        raise BadRequest(f"`limit` must be from 1 to {MAX_PAGE}.", param="limit")
    reader.begin()
    try:
        only = asked.numbers(reader.series.all())
        found, last = reader.page(asked.start, asked.end, only, _cursor(query.after), query.limit)
    finally:
        reader.end()
    return RecordsPage(
        records=tuple(found),
        currency=currency,
        next=None if last is None else f"{last[0]!r}/{last[1]}",
    )


def _cursor(after: str | None) -> tuple[float, str]:
    if after is None:
        return -1.0, ""
    at, _, request = after.partition("/")
    try:
        return float(at), request
    except ValueError:
        raise BadRequest("`after` is not what a page called its end.", param="after") from None
