"""What a transaction adds to the sums, gathered so that each of their rows is written once."""

import sqlite3
from collections import Counter
from collections.abc import Sequence

from services.monitor.costs.money import PICO
from services.monitor.usage.levels import Unit
from services.monitor.usage.rollups import LATENCY, SUMS, Rollup
from services.monitor.usage.schema import DERIVED_COLUMNS, SUM_COLUMNS
from services.monitor.usage.series import SeriesTable

_CARRIED = f"""
    cost_whole = cost_whole + excluded.cost_whole + (cost_pico + excluded.cost_pico) / {PICO},
    cost_pico = (cost_pico + excluded.cost_pico) % {PICO}
"""


class _Gathered:
    """What goes into one table of sums."""

    def __init__(self, rollup: Rollup) -> None:
        self.fields = rollup.fields
        self.by_quarter = rollup.base_unit is Unit.QUARTER
        self.width = rollup.width
        self.ends_told = "failed" in columns_of(rollup)
        self.upsert = _upsert(rollup)
        self.rows: dict[tuple[int, int], tuple[int, ...]] = {}

    def add(self, quarter: int, day: int, series: int, sums: tuple[int, ...]) -> None:
        place = ((quarter if self.by_quarter else day) // self.width, series)
        before = self.rows.get(place)
        self.rows[place] = sums if before is None else tuple(map(int.__add__, before, sums))


class Tally:
    """Gathers, and is written in the same transaction as what it was gathered from."""

    def __init__(self, numbers: SeriesTable, rollups: Sequence[Rollup] = SUMS) -> None:
        self._numbers = numbers
        self._sums = [_Gathered(rollup) for rollup in rollups]
        self._latencies: Counter[tuple[int, str, int, int]] = Counter()

    def add(self, quarter: int, day: int, series: int, sums: tuple[int, ...]) -> None:
        """Sums in the order of SUM_COLUMNS, of one series in one quarter of an hour."""
        outcome = self._numbers.named(series).outcome
        ends = (sums[0] * (outcome == "failed"), sums[0] * (outcome == "cancelled"), *sums)
        for each in self._sums:
            narrow = self._numbers.narrowed(series, each.fields)
            each.add(quarter, day, narrow, ends if each.ends_told else sums)

    def add_latency(self, day: int, series: int, kind: str, number: int) -> None:
        """One more time in a bin."""
        self._latencies[day, kind, series, number] += 1

    def write(self, db: sqlite3.Connection) -> None:
        """Add it to what the file has."""
        for each in self._sums:
            db.executemany(each.upsert, ((*place, *_carried(sums)) for place, sums in each.rows.items()))
        for rollup, upsert in _ADD_LATENCY if self._latencies else ():
            gathered: Counter[tuple[int, str, int, int]] = Counter()
            for (day, kind, series, number), times in self._latencies.items():
                narrow = self._numbers.narrowed(series, rollup.fields)
                gathered[day // rollup.width, kind, narrow, number] += times
            db.executemany(upsert, ((*place, times) for place, times in gathered.items()))


def _carried(sums: tuple[int, ...]) -> tuple[int, ...]:
    *counts, whole, pico = sums
    return *counts, whole + pico // PICO, pico % PICO


def columns_of(rollup: Rollup) -> tuple[str, ...]:
    """What a table of sums sums up."""
    return SUM_COLUMNS if rollup.base == "requests" else DERIVED_COLUMNS


def _upsert(rollup: Rollup) -> str:
    columns = columns_of(rollup)
    names = (rollup.unit, "series", *columns)
    summed = ", ".join(f"{name} = {name} + excluded.{name}" for name in columns[:-2])
    return (
        f"INSERT INTO {rollup.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608 - our own names
        f"ON CONFLICT ({rollup.unit}, series) DO UPDATE SET {summed}, {_CARRIED}"
    )


_ADD_LATENCY = [
    (
        rollup,
        f"INSERT INTO {rollup.table} ({rollup.unit}, kind, series, bin, requests) VALUES (?, ?, ?, ?, ?) "  # noqa: S608 - our own names
        f"ON CONFLICT (kind, {rollup.unit}, series, bin) DO UPDATE "
        "SET requests = requests + excluded.requests",
    )
    for rollup in LATENCY
]
