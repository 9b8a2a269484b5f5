"""Rollups: sums by unit of time and by fields of the series, latencies in bins, and which answer a query."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from schemas.usage import Percentiles
from services.monitor.calendar import day_of, midnight
from services.monitor.usage.series import UsageSeries

QUARTER_S = 900
"""In every time zone, hours and days begin on a multiple of this."""
HOUR_QUARTERS, BLOCK_DAYS = 4, 32
START, END = 0.0, 4102444800.0
"""1970 and 2100: the bounds of valid timestamps."""
_GROWTH = 1.05
"""Of the width of a bin of latencies: percentiles are within 2.5 %."""
_LOG_GROWTH = math.log(_GROWTH)
_LAST_BIN = 400
"""About three and a half days, in milliseconds."""


class TimeUnit(StrEnum):
    """A unit of stored sums; the value is the name of its column."""

    QUARTER = "quarter"
    """Quarters of an hour since 1970."""
    HOUR = "hour"
    """Hours since 1970, in UTC."""
    DAY = "day"
    """Days of the yard's own time zone, as ordinals."""
    BLOCK = "block"
    """32 of these days each, which need no calendar."""


WIDEST_FIRST = (TimeUnit.BLOCK, TimeUnit.DAY, TimeUnit.HOUR, TimeUnit.QUARTER)


class TimeRange(NamedTuple):
    """From `low` to before `high`: numbers of `unit`, or (None) unix seconds of single requests."""

    unit: TimeUnit | None
    low: float
    high: float


def quarter_of(at: float) -> int:
    return math.floor(at / QUARTER_S)


def number_of(unit: TimeUnit, at: float, tz: ZoneInfo) -> int:
    """The number of the unit that contains a moment. `tz`: of the stored days."""
    if unit in (TimeUnit.QUARTER, TimeUnit.HOUR):
        return quarter_of(at) // (HOUR_QUARTERS if unit is TimeUnit.HOUR else 1)
    return day_of(at, tz) // (BLOCK_DAYS if unit is TimeUnit.BLOCK else 1)


def start_of(unit: TimeUnit, number: int, tz: ZoneInfo) -> float:
    if unit in (TimeUnit.QUARTER, TimeUnit.HOUR):
        return float(number * QUARTER_S * (HOUR_QUARTERS if unit is TimeUnit.HOUR else 1))
    return midnight(number * (BLOCK_DAYS if unit is TimeUnit.BLOCK else 1), tz)


def split(start: float, end: float, tz: ZoneInfo, units: Sequence[TimeUnit]) -> list[TimeRange]:
    """Disjoint ranges that cover a period: the first unit in the middle, the next ones at its edges."""
    if start >= end:
        return []
    if not units:
        return [TimeRange(None, start, end)]
    unit, *finer = units
    low, high = number_of(unit, start, tz), number_of(unit, end, tz)
    if start_of(unit, low, tz) < start:
        low += 1
    if low >= high:
        return split(start, end, tz, finer)
    return [
        *split(start, start_of(unit, low, tz), tz, finer),
        TimeRange(unit, low, high),
        *split(start_of(unit, high, tz), end, tz, finer),
    ]


ALL_FIELDS = UsageSeries._fields


class Rollup(NamedTuple):
    """A table of sums by a unit of time and by some fields of the series.

    The series of a row has all other fields empty.
    """

    table: str
    unit: TimeUnit
    fields: tuple[str, ...]
    base: str
    """The table it is derived from: each row of that one contributes to one row here."""

    @property
    def width(self) -> int:
        return {TimeUnit.HOUR: HOUR_QUARTERS, TimeUnit.BLOCK: BLOCK_DAYS}.get(self.unit, 1)

    @property
    def base_unit(self) -> TimeUnit:
        return TimeUnit.QUARTER if self.unit in (TimeUnit.QUARTER, TimeUnit.HOUR) else TimeUnit.DAY


QUARTERS = Rollup("quarters", TimeUnit.QUARTER, ALL_FIELDS, "requests")
DAYS = Rollup("days", TimeUnit.DAY, ALL_FIELDS, "requests")
DERIVED = (
    Rollup("model_hours", TimeUnit.HOUR, ("model",), "quarters"),
    Rollup("model_days", TimeUnit.DAY, ("model",), "days"),
    Rollup("blocks", TimeUnit.BLOCK, ALL_FIELDS, "days"),
)
"""Sums of sums, those with the fewest rows first."""
SUMS = (*DERIVED, QUARTERS, DAYS)
LATENCIES = Rollup("latencies", TimeUnit.DAY, ALL_FIELDS, "requests")
DERIVED_LATENCIES = (
    Rollup("model_latencies", TimeUnit.DAY, ("model",), "latencies"),
    Rollup("model_block_latencies", TimeUnit.BLOCK, ("model",), "latencies"),
)
ALL_LATENCIES = (*DERIVED_LATENCIES, LATENCIES)


def select_rollups(rollups: Iterable[Rollup], needed: Collection[str]) -> list[Rollup]:
    """For each unit of time the smallest rollup that has the needed fields, the widest unit first."""
    by_unit: dict[TimeUnit, Rollup] = {}
    for rollup in rollups:
        if set(needed) <= set(rollup.fields):
            by_unit.setdefault(rollup.unit, rollup)
    return [by_unit[unit] for unit in WIDEST_FIRST if unit in by_unit]


def bin_of(ms: float | None) -> int | None:
    """The bin of a duration; None for one that is missing or negative."""
    if ms is None or not ms >= 0:
        return None
    # Timestamps at the limits of a float are an infinite time apart.
    return math.ceil(min(_LAST_BIN, math.log(ms) / _LOG_GROWTH)) if ms > 1 else 0


def middle_ms(number: int) -> float:
    """The representative duration of a bin, within 2.5 % of any in it."""
    return 2 * _GROWTH**number / (1 + _GROWTH) if number else 1.0


def percentiles(bins: Mapping[int, int]) -> Percentiles:
    total = sum(bins.values())
    if not total:
        return Percentiles()
    ordered = sorted(bins.items())
    return Percentiles(
        p50_ms=_at(ordered, 0.5 * total), p90_ms=_at(ordered, 0.9 * total), p99_ms=_at(ordered, 0.99 * total)
    )


def _at(ordered: list[tuple[int, int]], rank: float) -> float:
    below = 0
    for number, count in ordered:
        below += count
        if below >= rank:
            return round(middle_ms(number), 3)
    return round(middle_ms(ordered[-1][0]), 3)
