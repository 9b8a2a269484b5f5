"""What a transaction adds to the rollups, gathered so that each of their rows is written once."""

import sqlite3
from collections.abc import Mapping, Sequence
from operator import add

from schemas.requests import Outcome
from services.monitor.costs.pricing import PICO
from services.monitor.usage.rollups import ALL_LATENCIES, LATENCIES, SUMS, Rollup, TimeUnit
from services.monitor.usage.schema import DERIVED_COLUMNS, SUM_COLUMNS
from services.monitor.usage.series import SeriesTable

_CARRY = f"""
    cost_whole = cost_whole + excluded.cost_whole + (cost_pico + excluded.cost_pico) / {PICO},
    cost_pico = (cost_pico + excluded.cost_pico) % {PICO}
"""

_SumKey = tuple[int, int]
"""Number of a unit of time, number of a series."""
_BinKey = tuple[str, int, int, int]
"""Kind, number of a unit of time, number of a series, bin."""


class RollupBatch:
    """Increments of all rollups, written in the transaction of the rows that they come from."""

    def __init__(self, table: SeriesTable, rollups: Sequence[Rollup] = SUMS) -> None:
        self._table = table
        self._rollups = rollups
        self._sums: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self._latencies: dict[_BinKey, int] = {}

    def add(self, quarter: int, day: int, series: int, sums: tuple[int, ...]) -> None:
        """Add sums, in the order of SUM_COLUMNS, to one series in one quarter of an hour."""
        key = (quarter, day, series)
        before = self._sums.get(key)
        self._sums[key] = sums if before is None else tuple(map(add, before, sums))

    def add_latency(self, day: int, series: int, kind: str, number: int) -> None:
        """Count one duration in bin `number`."""
        key = (kind, day, series, number)
        self._latencies[key] = self._latencies.get(key, 0) + 1

    def write(self, db: sqlite3.Connection) -> None:
        """Add the increments to the tables."""
        with_outcomes = {key: self._with_outcomes(key[2], sums) for key, sums in self._sums.items()}
        for rollup in self._rollups:
            rows = self._sum_rows(rollup, self._sums if rollup.base == "requests" else with_outcomes)
            db.executemany(_UPSERT[rollup.table], ((*key, *_carried(sums)) for key, sums in rows.items()))
        for rollup in ALL_LATENCIES if self._latencies else ():
            # In the order of the table, so that neighbours are written one after another.
            bins = sorted(self._latency_rows(rollup).items())
            db.executemany(_UPSERT[rollup.table], ((*key, count) for key, count in bins))

    def _with_outcomes(self, series: int, sums: tuple[int, ...]) -> tuple[int, ...]:
        outcome = self._table.series(series).outcome
        return sums[0] * (outcome == Outcome.FAILED), sums[0] * (outcome == Outcome.CANCELLED), *sums

    def _sum_rows(
        self, rollup: Rollup, sums_by_key: Mapping[tuple[int, int, int], tuple[int, ...]]
    ) -> dict[_SumKey, tuple[int, ...]]:
        by_quarter, width = rollup.base_unit is TimeUnit.QUARTER, rollup.width
        narrow = self._table.narrowed(rollup.fields, {series for _, _, series in sums_by_key})
        rows: dict[_SumKey, tuple[int, ...]] = {}
        for (quarter, day, series), sums in sums_by_key.items():
            key = ((quarter if by_quarter else day) // width, narrow[series])
            before = rows.get(key)
            rows[key] = sums if before is None else tuple(map(add, before, sums))
        return rows

    def _latency_rows(self, rollup: Rollup) -> Mapping[_BinKey, int]:
        if rollup is LATENCIES:
            return self._latencies
        width = rollup.width
        narrow = self._table.narrowed(rollup.fields, {key[2] for key in self._latencies})
        rows: dict[_BinKey, int] = {}
        for (kind, day, series, number), count in self._latencies.items():
            key = (kind, day // width, narrow[series], number)
            rows[key] = rows.get(key, 0) + count
        return rows


def _carried(sums: tuple[int, ...]) -> tuple[int, ...]:
    *counts, whole, pico = sums
    return *counts, whole + pico // PICO, pico % PICO


def _upsert(rollup: Rollup) -> str:
    columns = SUM_COLUMNS if rollup.base == "requests" else DERIVED_COLUMNS
    names = (rollup.unit, "series", *columns)
    summed = ", ".join(f"{name} = {name} + excluded.{name}" for name in columns[:-2])
    return (
        f"INSERT INTO {rollup.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608 - our own names
        f"ON CONFLICT ({rollup.unit}, series) DO UPDATE SET {summed}, {_CARRY}"
    )


def _upsert_latency(rollup: Rollup) -> str:
    return (
        f"INSERT INTO {rollup.table} (kind, {rollup.unit}, series, bin, requests) VALUES (?, ?, ?, ?, ?) "  # noqa: S608 - our own names
        f"ON CONFLICT (kind, {rollup.unit}, series, bin) DO UPDATE "
        "SET requests = requests + excluded.requests"
    )


_UPSERT = {rollup.table: _upsert(rollup) for rollup in SUMS} | {
    rollup.table: _upsert_latency(rollup) for rollup in ALL_LATENCIES
}
