"""Usage reports and records as tables: a header, then rows of plain values."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from schemas.usage import Latency, Percentiles, PricedRequest, UsageQuery, UsageReport

Row = Sequence[object]
_SUMS = (
    *("requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("loaded_s", "energy_wh", "cost"),
)
_LATENCIES, _PERCENTILES = Latency.__struct_fields__, Percentiles.__struct_fields__
_RECORD_FIELDS = (
    *("request", "finished_at", "queued_at", "model", "key", "mode", "node", "instance", "lane", "path"),
    *("stream", "outcome", "status", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("queue_ms", "first_token_ms", "tokens_per_s"),
)
RECORD_HEADER = (*_RECORD_FIELDS, "error", "cost", "currency")


def report_table(report: UsageReport, query: UsageQuery) -> Iterator[Row]:
    """The header, and a row for each row of the report that answers `query`."""
    tz = ZoneInfo(report.tz)
    times = [(kind, name) for kind in _LATENCIES if query.latency for name in _PERCENTILES]
    at = ["at"] if query.step else []
    yield (*at, *query.by, *_SUMS, "currency", *(f"{kind}_{name}" for kind, name in times))
    for row in report.rows:
        begins = [] if query.step is None or row.at is None else [format_time(row.at, tz)]
        groups_and_sums = (_or_empty(getattr(row, name)) for name in (*query.by, *_SUMS))
        latency = (_or_empty(getattr(getattr(row.latency, kind), name)) for kind, name in times)
        yield (*begins, *groups_and_sums, report.currency, *latency)


def record_row(counted: PricedRequest, currency: str) -> Row:
    """One record, in the order of RECORD_HEADER. Times are unix seconds."""
    record = counted.record
    values = [_or_empty(getattr(record, name)) for name in _RECORD_FIELDS]
    return (*values, record.error.code if record.error else "", counted.cost, currency)


def _or_empty(value: object) -> object:
    return "" if value is None else value


def format_time(at: float, tz: ZoneInfo) -> str:
    """A moment in a time zone, ISO 8601 with its offset."""
    return datetime.fromtimestamp(at, tz).isoformat(timespec="seconds")


def write_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
