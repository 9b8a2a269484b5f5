"""Usage as tables for other programs: a header, then rows of plain values."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from schemas.usage import CountedRequest, Dimension, Percentiles, UsageReport, UsageRow, UsageSums

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

Row = Sequence[object]
_SUMS = (
    *("requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("loaded_s", "energy_wh", "cost"),
)
_PERCENTILES = Percentiles.__struct_fields__
_FACTS = (
    *("request", "finished_at", "queued_at", "model", "key", "mode", "node", "instance", "lane", "path"),
    *("stream", "outcome", "status", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("queue_ms", "first_token_ms", "tokens_per_s"),
)
RECORD_HEADER = (*_FACTS, "error", "cost", "currency")


def report_header(by: Sequence[Dimension], *, step: bool, latency: bool) -> Row:
    """The columns of `report_row`."""
    times = [f"{kind}_{name}" for kind in ("duration", "first_token") for name in _PERCENTILES]
    return (*(["at"] if step else []), *by, *_SUMS, "currency", *(times if latency else []))


def report_rows(report: UsageReport, by: Sequence[Dimension], *, step: bool) -> Iterable[Row]:
    """A row for each of the report's."""
    from zoneinfo import ZoneInfo

    tz = ZoneInfo(report.tz)
    for row in report.rows:
        at = [] if not step or row.at is None else [spell_time(row.at, tz)]
        yield (*at, *(group_value(row, name) for name in by), *sums(row), report.currency, *_latency(row))


def group_value(row: UsageRow, name: Dimension) -> object:
    """What the row has of one dimension; empty where it is not known."""
    value = getattr(row, name)
    return "" if value is None else value


def sums(row: UsageSums) -> Row:
    """The sums, in the order of the header."""
    return [getattr(row, name) for name in _SUMS]


def _latency(row: UsageSums) -> Row:
    if row.latency is None:
        return []
    kinds = (row.latency.duration, row.latency.first_token)
    return [_empty(getattr(kind, name)) for kind in kinds for name in _PERCENTILES]


def record_row(counted: CountedRequest, currency: str) -> Row:
    """One record, in the order of RECORD_HEADER. Times are unix seconds."""
    record = counted.record
    facts = [_empty(getattr(record, name)) for name in _FACTS]
    return (*facts, record.error.code if record.error else "", counted.cost, currency)


def _empty(value: object) -> object:
    return "" if value is None else value


def spell_time(at: float, tz: "ZoneInfo") -> str:
    """A moment on the clock of a time zone, with its distance from UTC."""
    return datetime.fromtimestamp(at, tz).isoformat(timespec="seconds")


def write_csv(rows: Iterable[Row]) -> str:
    """Lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
