"""What a transaction adds to the sums, gathered so that each of their rows is written once."""

import sqlite3
from collections.abc import Mapping, Sequence
from operator import add

from schemas.requests import Outcome
from services.monitor.costs.money import PICO
from services.monitor.usage.levels import Unit
from services.monitor.usage.rollups import LATENCIES, LATENCY, SUMS, Rollup
from services.monitor.usage.schema import DERIVED_COLUMNS, SUM_COLUMNS
from services.monitor.usage.series import SeriesTable

_CARRIED = f"""
    cost_whole = cost_whole + excluded.cost_whole + (cost_pico + excluded.cost_pico) / {PICO},
    cost_pico = (cost_pico + excluded.cost_pico) % {PICO}
"""


_Place = tuple[int, int]
"""A number of a unit of time, and a series."""
_Bin = tuple[str, int, int, int]
"""Kind, number of a unit of time, series, bin."""


class Tally:
    """Gathers, and is written in the same transaction as what it was gathered from."""

    def __init__(self, numbers: SeriesTable, rollups: Sequence[Rollup] = SUMS) -> None:
        self._numbers = numbers
        self._rollups = rollups
        self._sums: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self._latencies: dict[_Bin, int] = {}

    def add(self, quarter: int, day: int, series: int, sums: tuple[int, ...]) -> None:
        """Sums in the order of SUM_COLUMNS, of one series in one quarter of an hour."""
        place = (quarter, day, series)
        before = self._sums.get(place)
        self._sums[place] = sums if before is None else tuple(map(add, before, sums))

    def add_latency(self, day: int, series: int, kind: str, number: int) -> None:
        """One more time in a bin."""
        place = (kind, day, series, number)
        self._latencies[place] = self._latencies.get(place, 0) + 1

    def write(self, db: sqlite3.Connection) -> None:
        """Add it to what the file has."""
        with_ends = {place: self._with_ends(place[2], sums) for place, sums in self._sums.items()}
        for rollup in self._rollups:
            rows = self._gathered(rollup, self._sums if rollup.base == "requests" else with_ends)
            db.executemany(_UPSERT[rollup.table], ((*place, *_carried(sums)) for place, sums in rows.items()))
        for rollup in LATENCY if self._latencies else ():
            # In the order of the table, so that neighbours are written one after another.
            times = sorted(self._times(rollup).items())
            db.executemany(_UPSERT[rollup.table], ((*place, count) for place, count in times))

    def _with_ends(self, series: int, sums: tuple[int, ...]) -> tuple[int, ...]:
        outcome = self._numbers.named(series).outcome
        return sums[0] * (outcome == Outcome.FAILED), sums[0] * (outcome == Outcome.CANCELLED), *sums

    def _gathered(
        self, rollup: Rollup, found: Mapping[tuple[int, int, int], tuple[int, ...]]
    ) -> dict[_Place, tuple[int, ...]]:
        by_quarter, width = rollup.base_unit is Unit.QUARTER, rollup.width
        narrow = self._numbers.narrowed(rollup.fields, {series for _, _, series in found})
        rows: dict[_Place, tuple[int, ...]] = {}
        for (quarter, day, series), sums in found.items():
            place = ((quarter if by_quarter else day) // width, narrow[series])
            before = rows.get(place)
            rows[place] = sums if before is None else tuple(map(add, before, sums))
        return rows

    def _times(self, rollup: Rollup) -> Mapping[_Bin, int]:
        if rollup is LATENCIES:
            return self._latencies
        width = rollup.width
        narrow = self._numbers.narrowed(rollup.fields, {place[2] for place in self._latencies})
        times: dict[_Bin, int] = {}
        for (kind, day, series, number), count in self._latencies.items():
            place = (kind, day // width, narrow[series], number)
            times[place] = times.get(place, 0) + count
        return times


def _carried(sums: tuple[int, ...]) -> tuple[int, ...]:
    *counts, whole, pico = sums
    return *counts, whole + pico // PICO, pico % PICO


def _upsert(rollup: Rollup) -> str:
    columns = SUM_COLUMNS if rollup.base == "requests" else DERIVED_COLUMNS
    names = (rollup.unit, "series", *columns)
    summed = ", ".join(f"{name} = {name} + excluded.{name}" for name in columns[:-2])
    return (
        f"INSERT INTO {rollup.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608 - our own names
        f"ON CONFLICT ({rollup.unit}, series) DO UPDATE SET {summed}, {_CARRIED}"
    )


def _upsert_latency(rollup: Rollup) -> str:
    return (
        f"INSERT INTO {rollup.table} (kind, {rollup.unit}, series, bin, requests) VALUES (?, ?, ?, ?, ?) "  # noqa: S608 - our own names
        f"ON CONFLICT (kind, {rollup.unit}, series, bin) DO UPDATE "
        "SET requests = requests + excluded.requests"
    )


_UPSERT = {rollup.table: _upsert(rollup) for rollup in SUMS} | {
    rollup.table: _upsert_latency(rollup) for rollup in LATENCY
}
