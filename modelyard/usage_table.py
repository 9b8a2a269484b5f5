"""Usage reports and records as tables: a header, then rows of plain values."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from schemas.usage import Dimension, Percentiles, PricedRequest, UsageReport, UsageSums

Row = Sequence[object]
_SUMS = (
    *("requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("loaded_s", "energy_wh", "cost"),
)
_PERCENTILES = Percentiles.__struct_fields__
_RECORD_FIELDS = (
    *("request", "finished_at", "queued_at", "model", "key", "mode", "node", "instance", "lane", "path"),
    *("stream", "outcome", "status", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("queue_ms", "first_token_ms", "tokens_per_s"),
)
RECORD_HEADER = (*_RECORD_FIELDS, "error", "cost", "currency")


def report_header(by: Sequence[Dimension], *, step: bool, latency: bool) -> Row:
    """The columns of `report_rows`."""
    times = [f"{kind}_{name}" for kind in ("duration", "first_token") for name in _PERCENTILES]
    return (*(["at"] if step else []), *by, *_SUMS, "currency", *(times if latency else []))


def report_rows(report: UsageReport, by: Sequence[Dimension], *, step: bool) -> Iterable[Row]:
    """A table row for each row of the report."""
    tz = ZoneInfo(report.tz)
    for row in report.rows:
        at = [] if not step or row.at is None else [format_time(row.at, tz)]
        yield (
            *at,
            *(_or_empty(getattr(row, name)) for name in by),
            *_sums(row),
            report.currency,
            *_latency(row),
        )


def _sums(row: UsageSums) -> Row:
    return [getattr(row, name) for name in _SUMS]


def _latency(row: UsageSums) -> Row:
    if row.latency is None:
        return []
    kinds = (row.latency.duration, row.latency.first_token)
    return [_or_empty(getattr(kind, name)) for kind in kinds for name in _PERCENTILES]


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
