"""Usage on disk, the reading side: sums by any group and step of time, latencies, and single records."""

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
from schemas.usage import CountedRequest
from services.monitor.costs.money import spelled
from services.monitor.usage.levels import QUARTER_S, START, Part, Unit, parts
from services.monitor.usage.rollups import ALL, DERIVED, DERIVED_LATENCIES, LATENCY, SUMS, Rollup, chosen
from services.monitor.usage.schema import DERIVED_COLUMNS, SUM_COLUMNS
from services.monitor.usage.series import SeriesTable, narrowed
from services.monitor.usage.store import HORIZON

Sums = tuple[int, ...]
"""In the order of DERIVED_COLUMNS: failed and cancelled ones, then all that is summed up."""
_ENDS = "SUM(requests * failed_here), SUM(requests * cancelled_here)"
_SUMMED = ", ".join(f"SUM({name})" for name in SUM_COLUMNS)
_SUMMED_DERIVED = ", ".join(f"SUM({name})" for name in DERIVED_COLUMNS)
_OF_REQUESTS = """
SELECT cell, SUM(failed_here), SUM(cancelled_here), COUNT(*), SUM(prompt_tokens), SUM(cached_tokens),
    SUM(completion_tokens), 0, 0, SUM(cost_whole), SUM(cost_pico)
FROM requests CROSS JOIN cells USING (series) WHERE finished_at >= ? AND finished_at < ? GROUP BY cell
"""
_OF_CHARGES = """
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
"""Of records in a page: with the longest errors and letters of four bytes it is still below a MiB."""


class UsageReader:
    """One connection that only reads, to be used from the thread that made it. It sees whole transactions."""

    def __init__(self, path: Path, tz: ZoneInfo) -> None:
        self._tz = tz
        self.db = sqlite3.connect(path, isolation_level=None)
        # A million records are some hundred MiB: what was read once is at hand again.
        self.db.execute("PRAGMA mmap_size = 1073741824")
        self.series = SeriesTable(self.db)
        self._horizon = START
        self._sums: dict[Unit, Rollup] = {}
        self._latencies: dict[Unit, Rollup] = {}

    def begin(self) -> None:
        """From now on everything is as it is now."""
        self.end()
        self.db.execute("BEGIN")

    def end(self) -> None:
        """See what comes again."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def group(self, fields: Collection[str], cells: Mapping[int, int]) -> None:
        """Until the end of this state: the series asked about, and the cell that each is counted in.

        `fields` are those by which they are chosen or told apart.
        """
        self._horizon = float(self._fact(HORIZON) or START)
        self._sums = {rollup.unit: rollup for rollup in chosen(SUMS, fields)}
        self._latencies = {rollup.unit: rollup for rollup in chosen(LATENCY, fields)}
        kept = {rollup.fields for rollup in (*self._sums.values(), *self._latencies.values())}
        for told in kept:
            self._group(told, cells)

    def _group(self, told: tuple[str, ...], cells: Mapping[int, int]) -> None:
        table = _cells(told)
        self.db.execute(
            f"CREATE TEMP TABLE {table} (series INTEGER PRIMARY KEY, cell INTEGER NOT NULL, "
            "failed_here INTEGER NOT NULL, cancelled_here INTEGER NOT NULL)"
        )
        named = self.series.all()
        rows = []
        for number, cell in cells.items():
            series = named[number]
            if narrowed(series, told) == series:
                ended = series.outcome
                rows.append((number, cell, ended == Outcome.FAILED, ended == Outcome.CANCELLED))
        self.db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)  # noqa: S608 - our own names

    def sums(self, start: float, end: float) -> dict[int, Sums]:
        """What there was in a period, by cell."""
        found: dict[int, Sums] = {}
        for part in self._parts(start, end, self._sums):
            for cell, *values in self._sum_rows(part):
                before = found.get(cell)
                found[cell] = tuple(values) if before is None else tuple(map(add, before, values))
        return found

    def _parts(self, start: float, end: float, rollups: Mapping[Unit, Rollup]) -> list[Part]:
        if start < self._horizon:
            # Single records of that time are gone: a quarter of an hour counts where it begins.
            start -= start % QUARTER_S
        if end < self._horizon:
            end -= end % QUARTER_S
        return parts(start, end, self._tz, tuple(rollups))

    def _fact(self, name: str) -> Any:
        row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _sum_rows(self, part: Part) -> Iterator[Any]:
        low, high = part.low, part.high
        if part.unit is None:
            yield from self.db.execute(_OF_REQUESTS, (low, high))
            yield from self.db.execute(_OF_CHARGES, (low, high, low, high))
            return
        yield from self.db.execute(_sums_of(self._sums[part.unit]), (low, high))

    def latencies(self, kind: str, start: float, end: float) -> dict[int, Counter[int]]:
        """How many times of one kind were in which bin, by cell."""
        found: dict[int, Counter[int]] = defaultdict(Counter)
        for part in self._parts(start, end, self._latencies):
            for cell, number, count in self._latency_rows(kind, part):
                found[cell][number] += count
        return found

    def _latency_rows(self, kind: str, part: Part) -> Iterator[Any]:
        low, high = part.low, part.high
        if part.unit is None:
            return self.db.execute(
                f"SELECT cell, {kind}_bin, COUNT(*) FROM requests CROSS JOIN cells USING (series) "  # noqa: S608 - our own names
                f"WHERE finished_at >= ? AND finished_at < ? AND {kind}_bin IS NOT NULL "
                f"GROUP BY cell, {kind}_bin",
                (low, high),
            )
        return self.db.execute(_latencies_of(self._latencies[part.unit]), (kind, low, high))

    def oldest(self) -> float | None:
        """When the first thing was that is still known."""
        (quarter,) = self.db.execute("SELECT MIN(quarter) FROM quarters").fetchone()
        return None if quarter is None else float(quarter * QUARTER_S)

    def newest(self) -> float | None:
        """The end of the last quarter of an hour in which there was anything."""
        (quarter,) = self.db.execute("SELECT MAX(quarter) FROM quarters").fetchone()
        return None if quarter is None else float((quarter + 1) * QUARTER_S)

    def recent(
        self, start: float, end: float, only: Collection[int] | None, limit: int
    ) -> tuple[RequestFinished, ...]:
        """The newest records, newest first."""
        condition, chosen = _only(only)
        rows = self.db.execute(_RECENT.format(condition), (start, end, *chosen, limit))
        return tuple(REQUEST_FINISHED.decode(record.encode()) for (record,) in rows)

    def page(
        self, start: float, end: float, only: Collection[int] | None, after: tuple[float, str], limit: int
    ) -> tuple[list[CountedRequest], tuple[float, str] | None]:
        """Records in order of time after the one that is named by its time and id, and where to go on.

        Fewer than the limit where they would not fit into a message.
        """
        condition, chosen = _only(only)
        rows = self.db.execute(_RECORDS.format(condition), (start, end, *after, *chosen, limit))
        found: list[CountedRequest] = []
        size = 0
        for request, at, record, whole, pico in rows:
            found.append(
                CountedRequest(record=REQUEST_FINISHED.decode(record.encode()), cost=spelled(whole, pico))
            )
            size += len(record)
            if size > _PAGE_CHARACTERS or len(found) == limit:
                return found, (at, request)
        return found, None

    def close(self) -> None:
        """Give the file free."""
        self.db.close()


def _cells(told: tuple[str, ...]) -> str:
    """The table of cells for sums by these fields. That of all fields is for single requests too."""
    return "cells" if told == ALL else f"cells_of_{'_'.join(told)}"


@cache
def _sums_of(rollup: Rollup) -> str:
    unit, cells = rollup.unit, _cells(rollup.fields)
    if rollup in DERIVED:
        return (
            f"SELECT cell, {_SUMMED_DERIVED} FROM {cells} CROSS JOIN {rollup.table} USING (series) "  # noqa: S608 - our own names
            f"WHERE {unit} >= ? AND {unit} < ? GROUP BY series"
        )
    return (
        f"SELECT cell, {_ENDS}, {_SUMMED} FROM {rollup.table} CROSS JOIN {cells} USING (series) "  # noqa: S608 - as above
        f"WHERE {unit} >= ? AND {unit} < ? GROUP BY cell"
    )


@cache
def _latencies_of(rollup: Rollup) -> str:
    unit, cells = rollup.unit, _cells(rollup.fields)
    joined = (
        f"{cells} CROSS JOIN {rollup.table}"
        if rollup in DERIVED_LATENCIES
        else f"{rollup.table} CROSS JOIN {cells}"
    )
    return (
        f"SELECT cell, bin, SUM(requests) FROM {joined} USING (series) "  # noqa: S608 - our own names
        f"WHERE kind = ? AND {unit} >= ? AND {unit} < ? GROUP BY cell, bin"
    )


def _only(series: Collection[int] | None) -> tuple[str, tuple[str, ...]]:
    if series is None:
        return "", ()
    return "AND series IN (SELECT value FROM json_each(?))", (json.dumps(list(series)),)
