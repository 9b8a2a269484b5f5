"""How a period is cut into units of time as sums are kept, from 32 days down to single requests. Pure."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.monitor.calendar import day_of, midnight

QUARTER_S = 900
"""Every time zone of our days begins its hours and days on one of these."""
HOUR_QUARTERS, BLOCK_DAYS = 4, 32
START, END = 0.0, 4102444800.0
"""Records say they are of between 1970 and 2100."""


class Unit(StrEnum):
    """What sums are kept by, and the name of its column."""

    QUARTER = "quarter"
    """Quarters of an hour since 1970."""
    HOUR = "hour"
    """Hours since 1970, on the clock of UTC."""
    DAY = "day"
    """Days of the yard's own time zone, as ordinals."""
    BLOCK = "block"
    """32 of these days each, which need no calendar."""


WIDEST_FIRST = (Unit.BLOCK, Unit.DAY, Unit.HOUR, Unit.QUARTER)


class Part(NamedTuple):
    """From `low` to before `high`: numbers of a unit, or unix seconds of single requests."""

    unit: Unit | None
    low: float
    high: float


def quarter_of(at: float) -> int:
    """The quarter of an hour of a moment, since 1970."""
    return math.floor(at / QUARTER_S)


def number_of(unit: Unit, at: float, tz: ZoneInfo) -> int:
    """The quarter, hour, day or block of a moment. `tz` is that of the days as they are kept."""
    if unit in (Unit.QUARTER, Unit.HOUR):
        return quarter_of(at) // (HOUR_QUARTERS if unit is Unit.HOUR else 1)
    return day_of(at, tz) // (BLOCK_DAYS if unit is Unit.BLOCK else 1)


def start_of(unit: Unit, number: int, tz: ZoneInfo) -> float:
    """The moment at which it begins."""
    if unit in (Unit.QUARTER, Unit.HOUR):
        return float(number * QUARTER_S * (HOUR_QUARTERS if unit is Unit.HOUR else 1))
    return midnight(number * (BLOCK_DAYS if unit is Unit.BLOCK else 1), tz)


def parts(start: float, end: float, tz: ZoneInfo, units: Sequence[Unit]) -> list[Part]:
    """Disjoint parts that make up the period, the first unit in the middle, the next ones at its edges."""
    if start >= end:
        return []
    if not units:
        return [Part(None, start, end)]
    unit, *finer = units
    low, high = number_of(unit, start, tz), number_of(unit, end, tz)
    if start_of(unit, low, tz) < start:
        low += 1
    if low >= high:
        return parts(start, end, tz, finer)
    return [
        *parts(start, start_of(unit, low, tz), tz, finer),
        Part(unit, low, high),
        *parts(start_of(unit, high, tz), end, tz, finer),
    ]
