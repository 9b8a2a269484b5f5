"""Which table answers for which part of a period: whole days, whole quarters of an hour, single requests."""

import math
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.monitor.calendar import day_of, midnight

QUARTER_S = 900
"""Every time zone of our days begins its hours and days on one of these."""
START, END = 0.0, 4102444800.0
"""Records say they are of between 1970 and 2100."""


class Part(NamedTuple):
    """From `low` to before `high` in one table: unix seconds, quarters since 1970, or days as ordinals."""

    table: str
    low: float
    high: float


def quarter_of(at: float) -> int:
    """The quarter of an hour of a moment, since 1970."""
    return math.floor(at / QUARTER_S)


def parts(start: float, end: float, tz: ZoneInfo, *, quarters: bool = True) -> list[Part]:
    """Disjoint parts that make up the period. `tz` is that of the days as they are kept.

    Without `quarters`, for what is kept by the day alone, single requests stand in for them.
    """
    if end <= start:
        return []
    low, high = math.ceil(start / QUARTER_S), math.floor(end / QUARTER_S)
    if low >= high:
        return [Part("requests", start, end)]
    edge_low, edge_high = low * QUARTER_S, high * QUARTER_S
    middle = _middle(edge_low, edge_high, tz)
    found = [
        Part("requests", start, edge_low),
        *(middle if quarters else _as_requests(middle)),
        Part("requests", edge_high, end),
    ]
    return [part for part in found if part.low < part.high]


def _middle(low: float, high: float, tz: ZoneInfo) -> list[Part]:
    first, last = day_of(low, tz), day_of(high, tz)
    if midnight(first, tz) < low:
        first += 1
    if first >= last:
        return [Part("quarters", quarter_of(low), quarter_of(high))]
    return [
        Part("quarters", quarter_of(low), quarter_of(midnight(first, tz))),
        Part("days", first, last),
        Part("quarters", quarter_of(midnight(last, tz)), quarter_of(high)),
    ]


def _as_requests(found: list[Part]) -> list[Part]:
    return [
        Part("requests", part.low * QUARTER_S, part.high * QUARTER_S) if part.table == "quarters" else part
        for part in found
    ]
