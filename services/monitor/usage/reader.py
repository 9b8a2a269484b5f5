"""Usage on disk, the reading side: sums by group and step of time, latencies, and single records."""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from operator import add
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from schemas.requests import Outcome, RequestFinished
from schemas.subjects import REQUEST_FINISHED
from schemas.usage import PricedRequest
from services.monitor.price_book import format_amount
from services.monitor.usage.rollups import (
    ALL_FIELDS,
    ALL_LATENCIES,
    DERIVED,
    DERIVED_LATENCIES,
    QUARTER_S,
    START,
    SUMS,
    Rollup,
    TimeRange,
    TimeUnit,
    select_rollups,
    split,
)
from services.monitor.usage.schema import DERIVED_COLUMNS, SUM_COLUMNS
from services.monitor.usage.series import SeriesTable
from services.monitor.usage.store import HORIZON

Sums = tuple[int, ...]
"""In the order of DERIVED_COLUMNS."""
_OUTCOMES = "SUM(requests * failed_here), SUM(requests * cancelled_here)"
_PLAIN_SUMS = ", ".join(f"SUM({name})" for name in SUM_COLUMNS)
_DERIVED_SUMS = ", ".join(f"SUM({name})" for name in DERIVED_COLUMNS)
_FROM_REQUESTS = """
SELECT cell, SUM(failed_here), SUM(cancelled_here), COUNT(*), SUM(prompt_tokens), SUM(cached_tokens),
    SUM(completion_tokens), 0, 0, SUM(cost_whole), SUM(cost_pico)
FROM requests CROSS JOIN cells USING (series) WHERE finished_at >= ? AND finished_at < ? GROUP BY cell
"""
_FROM_CHARGES = """
SELECT cell, 0, 0, 0, 0, 0, 0, SUM(loaded_ms), SUM(energy_mwh), SUM(cost_whole), SUM(cost_pico)
FROM charges CROSS JOIN cells USING (series)
WHERE quarter BETWEEN ? / 900 - 1 AND ? / 900 AND at >= ? AND at < ? GROUP BY cell
"""
_RECORDS = """
SELECT request, finished_at, record, cost_whole, cost_pico FROM requests
WHERE finished_at >= ? AND finished_at < ? AND (finished_at, request) > (?, ?) {}
ORDER BY finished_at, request LIMIT ?
"""
_RECENT = """
SELECT record FROM requests WHERE finished_at >= ? AND finished_at < ? {}
ORDER BY finished_at DESC, request LIMIT ?
"""

_PAGE_CHARACTERS = 256 * 1024
"""Records in a page: with the longest errors and characters of four bytes it is still below a MiB."""


class UsageReader:
    """One read-only connection, for the thread that opened it. It sees whole transactions."""

    def __init__(self, path: Path, tz: ZoneInfo) -> None:
        self._tz = tz
        self.db = sqlite3.connect(path, isolation_level=None)
        # A million records are some hundred MiB: pages that were read once stay in the page cache.
        self.db.execute("PRAGMA mmap_size = 1073741824")
        self.series = SeriesTable(self.db)
        self._horizon = START
        self._sums: dict[TimeUnit, Rollup] = {}
        self._latencies: dict[TimeUnit, Rollup] = {}

    def begin(self) -> None:
        """Begin a snapshot: all reads until `end` see one state of the file."""
        self.end()
        self.db.execute("BEGIN")

    def end(self) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def group(self, fields: Collection[str], cells: Mapping[int, int]) -> None:
        """Set, for this snapshot, the cell in which each series is counted; series without one are left out.

        `fields`: those that the series are filtered or grouped by.
        """
        self._horizon = float(self._fact(HORIZON) or START)
        self._sums = {rollup.unit: rollup for rollup in select_rollups(SUMS, fields)}
        self._latencies = {rollup.unit: rollup for rollup in select_rollups(ALL_LATENCIES, fields)}
        used = (*self._sums.values(), *self._latencies.values())
        for rollup_fields in {rollup.fields for rollup in used}:
            self._create_cells(rollup_fields, cells)

    def _create_cells(self, fields: tuple[str, ...], cells: Mapping[int, int]) -> None:
        table = _cells_table(fields)
        self.db.execute(
            f"CREATE TEMP TABLE {table} (series INTEGER PRIMARY KEY, cell INTEGER NOT NULL, "
            "failed_here INTEGER NOT NULL, cancelled_here INTEGER NOT NULL)"
        )
        by_number = self.series.all()
        rows = []
        for number, cell in cells.items():
            series = by_number[number]
            if series.narrowed(fields) == series:
                outcome = series.outcome
                rows.append((number, cell, outcome == Outcome.FAILED, outcome == Outcome.CANCELLED))
        self.db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)  # noqa: S608 - our own names

    def sums(self, start: float, end: float) -> dict[int, Sums]:
        sums: dict[int, Sums] = {}
        for bounds in self._split(start, end, self._sums):
            for cell, *values in self._sum_rows(bounds):
                before = sums.get(cell)
                sums[cell] = tuple(values) if before is None else tuple(map(add, before, values))
        return sums

    def _split(self, start: float, end: float, rollups: Mapping[TimeUnit, Rollup]) -> list[TimeRange]:
        if start < self._horizon:
            # Without single records of that time, a quarter of an hour counts where it begins.
            start -= start % QUARTER_S
        if end < self._horizon:
            end -= end % QUARTER_S
        return split(start, end, self._tz, tuple(rollups))

    def _fact(self, name: str) -> Any:
        row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _sum_rows(self, bounds: TimeRange) -> Iterator[Any]:
        low, high = bounds.low, bounds.high
        if bounds.unit is None:
            yield from self.db.execute(_FROM_REQUESTS, (low, high))
            yield from self.db.execute(_FROM_CHARGES, (low, high, low, high))
            return
        yield from self.db.execute(_select_sums(self._sums[bounds.unit]), (low, high))

    def latencies(self, kind: str, start: float, end: float) -> dict[int, Counter[int]]:
        bins: dict[int, Counter[int]] = defaultdict(Counter)
        for bounds in self._split(start, end, self._latencies):
            for cell, number, count in self._latency_rows(kind, bounds):
                bins[cell][number] += count
        return bins

    def _latency_rows(self, kind: str, bounds: TimeRange) -> Iterator[Any]:
        low, high = bounds.low, bounds.high
        if bounds.unit is None:
            return self.db.execute(
                f"SELECT cell, {kind}_bin, COUNT(*) FROM requests CROSS JOIN cells USING (series) "  # noqa: S608 - our own names
                f"WHERE finished_at >= ? AND finished_at < ? AND {kind}_bin IS NOT NULL "
                f"GROUP BY cell, {kind}_bin",
                (low, high),
            )
        return self.db.execute(_select_latencies(self._latencies[bounds.unit]), (kind, low, high))

    def oldest(self) -> float | None:
        (quarter,) = self.db.execute("SELECT MIN(quarter) FROM quarters").fetchone()
        return None if quarter is None else float(quarter * QUARTER_S)

    def newest(self) -> float | None:
        (quarter,) = self.db.execute("SELECT MAX(quarter) FROM quarters").fetchone()
        return None if quarter is None else float((quarter + 1) * QUARTER_S)

    def recent(
        self, start: float, end: float, only: Collection[int] | None, limit: int
    ) -> tuple[RequestFinished, ...]:
        condition, values = _series_filter(only)
        rows = self.db.execute(_RECENT.format(condition), (start, end, *values, limit))
        return tuple(REQUEST_FINISHED.decode(record.encode()) for (record,) in rows)

    def page(
        self, start: float, end: float, only: Collection[int] | None, after: tuple[float, str], limit: int
    ) -> tuple[list[PricedRequest], tuple[float, str] | None]:
        """Records in order of time after the cursor (time and id), and the cursor of the next page.

        Fewer than the limit where they would not fit into a message.
        """
        condition, values = _series_filter(only)
        rows = self.db.execute(_RECORDS.format(condition), (start, end, *after, *values, limit))
        records: list[PricedRequest] = []
        size = 0
        for request, at, record, whole, pico in rows:
            cost = format_amount(whole, pico)
            records.append(PricedRequest(record=REQUEST_FINISHED.decode(record.encode()), cost=cost))
            size += len(record)
            if size > _PAGE_CHARACTERS or len(records) == limit:
                return records, (at, request)
        return records, None

    def close(self) -> None:
        self.db.close()


def _cells_table(fields: tuple[str, ...]) -> str:
    """The table of cells for rollups by these fields; that of all fields is for single requests too."""
    return "cells" if fields == ALL_FIELDS else f"cells_of_{'_'.join(fields)}"


@cache
def _select_sums(rollup: Rollup) -> str:
    unit, cells = rollup.unit, _cells_table(rollup.fields)
    if rollup in DERIVED:
        return (
            f"SELECT cell, {_DERIVED_SUMS} FROM {cells} CROSS JOIN {rollup.table} USING (series) "  # noqa: S608 - our own names
            f"WHERE {unit} >= ? AND {unit} < ? GROUP BY series"
        )
    return (
        f"SELECT cell, {_OUTCOMES}, {_PLAIN_SUMS} FROM {rollup.table} CROSS JOIN {cells} USING (series) "  # noqa: S608 - as above
        f"WHERE {unit} >= ? AND {unit} < ? GROUP BY cell"
    )


@cache
def _select_latencies(rollup: Rollup) -> str:
    unit, cells = rollup.unit, _cells_table(rollup.fields)
    joined = (
        f"{cells} CROSS JOIN {rollup.table}"
        if rollup in DERIVED_LATENCIES
        else f"{rollup.table} CROSS JOIN {cells}"
    )
    return (
        f"SELECT cell, bin, SUM(requests) FROM {joined} USING (series) "  # noqa: S608 - our own names
        f"WHERE kind = ? AND {unit} >= ? AND {unit} < ? GROUP BY cell, bin"
    )


def _series_filter(series: Collection[int] | None) -> tuple[str, tuple[str, ...]]:
    if series is None:
        return "", ()
    return "AND series IN (SELECT value FROM json_each(?))", (json.dumps(list(series)),)
