"""Forecasts by the weekday-seasonal mean: what a Monday will bring is the mean of the last Mondays. Pure.

How far such forecasts were off in the past says how far this one may be off.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

METHOD = "mean of the same weekday in the last 8 weeks; 90 % interval from its past errors"
WEEKS = 8
_Z = 1.645
"""Nine in ten of a normal distribution lie within so many standard deviations."""


class Outlook(NamedTuple):
    """What some days to come will bring together."""

    expected: float
    low: float
    high: float
    based_on_days: int


def outlook(past: Mapping[int, float], first: int, days: float) -> Outlook:
    """Of so many days from `first` on, the last perhaps in part, by whole days of the past (by ordinal)."""
    known = {day: value for day, value in past.items() if first - 7 * WEEKS <= day < first}
    whole, part = int(days), days - int(days)
    ahead = [(first + number, 1.0) for number in range(whole)] + ([(first + whole, part)] if part else [])
    expected = sum(share * _expected(known, day) for day, share in ahead)
    weight = sum(share for _, share in ahead)
    spread = _Z * _error(known) * math.sqrt(weight + weight**2 / max(1, len(known)))
    return Outlook(expected, max(0.0, expected - spread), expected + spread, len(known))


def _expected(known: Mapping[int, float], day: int) -> float:
    """The mean of this weekday; with fewer than two of it, of all days."""
    same = [value for past, value in known.items() if past % 7 == day % 7]
    used = same if len(same) > 1 else list(known.values())
    return sum(used) / len(used) if used else 0.0


def _error(known: Mapping[int, float]) -> float:
    """How far a day was from what all the others would have said of it: root of the mean square."""
    squares = []
    for day, value in known.items():
        others = {past: other for past, other in known.items() if past != day}
        if others:
            squares.append((value - _expected(others, day)) ** 2)
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0
