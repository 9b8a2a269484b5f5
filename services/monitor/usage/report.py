"""Usage reports: a filter resolved at one moment, and the rows and pages that answer it."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from zoneinfo import ZoneInfo

from schemas.errors import BadRequest
from schemas.requests import ANYONE
from schemas.usage import Latency, RecordsPage, RecordsQuery, UsageFilter, UsageQuery, UsageReport, UsageRow
from services.monitor.calendar import buckets, period_of, zone
from services.monitor.price_book import format_amount
from services.monitor.usage.reader import Sums, UsageReader
from services.monitor.usage.rollups import END, START, percentiles
from services.monitor.usage.series import UsageSeries

MAX_RECENT = 1000
MAX_BUCKETS = 20_000
MAX_PAGE = 500
_MATCHED = ("model", "key", "mode", "node", "lane", "status", "outcome")
GroupKey = tuple[object, ...]
"""The start of the bucket or None, then the values of the dimensions to group by."""


@dataclass(frozen=True)
class ResolvedFilter:
    start: float
    end: float
    tz: ZoneInfo
    required: Mapping[str, object]
    """Values that a series must have, by field."""

    def matches(self, series: UsageSeries) -> bool:
        return all(getattr(series, name) == value for name, value in self.required.items())

    def numbers(self, table: Mapping[int, UsageSeries]) -> Collection[int] | None:
        """The numbers of the matching series; None: all of them."""
        if not self.required:
            return None
        return [number for number, series in table.items() if self.matches(series)]


def resolve_filter(query: UsageFilter, now: float, tz: ZoneInfo, session_start: float) -> ResolvedFilter:
    """BadRequest if the bounds contradict each other; `tz` is the yard's own."""
    used_tz = tz if query.tz is None else zone(query.tz)
    required = {name: getattr(query, name) for name in _MATCHED if getattr(query, name) is not None}
    if required.get("key") == "":
        required["key"] = ANYONE
    start = _start(query, now, used_tz, session_start)
    return ResolvedFilter(start, _bound(query.until, "until", END), used_tz, required)


def _start(query: UsageFilter, now: float, tz: ZoneInfo, session_start: float) -> float:
    given = [query.since is not None, query.last_s is not None, query.period is not None, query.session]
    if sum(given) > 1:
        raise BadRequest("Give one of since, last_s, period and session, not several.", param="since")
    if query.last_s is not None:
        if not 0 < query.last_s < END:
            raise BadRequest("`last_s` must be a number of seconds above 0.", param="last_s")
        return max(START, now - query.last_s)
    if query.period is not None:
        return period_of(now, query.period, tz)[0]
    return session_start if query.session else _bound(query.since, "since", START)


def _bound(at: float | None, name: str, default: float) -> float:
    if at is None:
        return default
    if not -END < at <= END * 10:
        raise BadRequest(f"`{name}` must be a time in unix seconds.", param=name)
    return min(max(at, START), END)


class _Span(NamedTuple):
    at: float | None
    start: float
    end: float


@dataclass
class _Cell:
    """The sums and latency bins of one group."""

    sums: Sums = (0,) * 10
    duration: Mapping[int, int] = field(default_factory=dict)
    first_token: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def total(cls, cells: Collection["_Cell"]) -> "_Cell":
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
            cost=format_amount(whole, pico),
            latency=Latency(duration=percentiles(self.duration), first_token=percentiles(self.first_token))
            if latency
            else None,
        )


def usage_report(
    reader: UsageReader, query: UsageQuery, resolved: ResolvedFilter, *, now: float, currency: str
) -> UsageReport:
    if not 0 <= query.recent <= MAX_RECENT:
        raise BadRequest(f"`recent` must be from 0 to {MAX_RECENT}.", param="recent")
    if len(set(query.by)) < len(query.by):
        raise BadRequest("`by` names something twice.", param="by")
    reader.begin()
    try:
        table = reader.series.all()
        only = resolved.numbers(table)
        spans = _spans(reader, query, resolved, now)
        matching = table if only is None else {number: table[number] for number in only}
        cells = _cells(reader, query, resolved, spans, matching)
        recent = reader.recent(resolved.start, resolved.end, only, query.recent) if query.recent else ()
    finally:
        reader.end()
    return UsageReport(
        rows=tuple(_rows(query, cells)),
        total=_Cell.total(cells.values()).row(latency=query.latency),
        tz=resolved.tz.key,
        currency=currency,
        since=resolved.start or None,
        until=query.until,
        buckets=tuple(span.at for span in spans if span.at is not None),
        recent=recent,
    )


def _spans(reader: UsageReader, query: UsageQuery, resolved: ResolvedFilter, now: float) -> list[_Span]:
    """One span for the whole period, or one per bucket. Open ends are cut to the stored data."""
    if query.step is None:
        return [_Span(None, resolved.start, resolved.end)]
    start = max(resolved.start, reader.oldest() or resolved.start or now)
    end = min(resolved.end, max(now, reader.newest() or now))
    spans: list[_Span] = []
    for low, high in buckets(start, end, query.step, resolved.tz):
        if len(spans) == MAX_BUCKETS:
            raise BadRequest(
                f"That is more than {MAX_BUCKETS} buckets; ask for a shorter time or a larger step.",
                param="step",
            )
        spans.append(_Span(low, max(low, resolved.start), min(high, resolved.end)))
    return spans


def _cells(
    reader: UsageReader,
    query: UsageQuery,
    resolved: ResolvedFilter,
    spans: Iterable[_Span],
    series_by_number: dict[int, UsageSeries],
) -> dict[GroupKey, _Cell]:
    keys = {
        number: tuple(getattr(series, name) for name in query.by)
        for number, series in series_by_number.items()
    }
    indexes = {key: index for index, key in enumerate(dict.fromkeys(keys.values()))}
    by_index = list(indexes)
    reader.group({*query.by, *resolved.required}, {number: indexes[key] for number, key in keys.items()})
    cells: dict[GroupKey, _Cell] = defaultdict(_Cell)
    for span in spans:
        for index, sums in reader.sums(span.start, span.end).items():
            cells[(span.at, *by_index[index])].sums = sums
        for kind in ("duration", "first_token") if query.latency else ():
            for index, bins in reader.latencies(kind, span.start, span.end).items():
                setattr(cells[(span.at, *by_index[index])], kind, bins)
    return cells


def _rows(query: UsageQuery, cells: dict[GroupKey, _Cell]) -> Iterable[UsageRow]:
    names = [name.value for name in query.by]
    for (at, *values), cell in sorted(
        cells.items(), key=lambda item: (item[0][0] or 0.0, -item[1].sums[2], item[0][1:])
    ):
        if any(cell.sums):
            group = {name: value or None for name, value in zip(names, values, strict=True)}
            yield cell.row(latency=query.latency, at=at, **group)


def records_page(
    reader: UsageReader, query: RecordsQuery, resolved: ResolvedFilter, *, currency: str
) -> RecordsPage:
    """One page of records. A record added between two pages appears in its place or not at all."""
    if not 1 <= query.limit <= MAX_PAGE:
        raise BadRequest(f"`limit` must be from 1 to {MAX_PAGE}.", param="limit")
    reader.begin()
    try:
        only = resolved.numbers(reader.series.all())
        records, last = reader.page(resolved.start, resolved.end, only, _cursor(query.after), query.limit)
    finally:
        reader.end()
    return RecordsPage(
        records=tuple(records), currency=currency, next=None if last is None else f"{last[0]!r}/{last[1]}"
    )


def _cursor(after: str | None) -> tuple[float, str]:
    if after is None:
        return -1.0, ""
    at, _, request = after.partition("/")
    try:
        return float(at), request
    except ValueError:
        raise BadRequest("`after` is not the `next` of a page.", param="after") from None
