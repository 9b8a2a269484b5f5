"""Latencies in exponential bins, each 5 % wider than the one before: percentiles are within 2.5 %."""

import math
from collections.abc import Mapping

from schemas.usage import Percentiles

_GROWTH = 1.05
_LOG_GROWTH = math.log(_GROWTH)
_LAST = 400
"""About three and a half days, in milliseconds."""


def bin_of(ms: float | None) -> int | None:
    """The bin of a duration; None for one that is missing or negative."""
    if ms is None or not ms >= 0:
        return None
    # Timestamps at the limits of a float are an infinite time apart.
    return math.ceil(min(_LAST, math.log(ms) / _LOG_GROWTH)) if ms > 1 else 0


def middle_ms(number: int) -> float:
    """The representative duration of a bin, within 2.5 % of any in it."""
    return 2 * _GROWTH**number / (1 + _GROWTH) if number else 1.0


def percentiles(bins: Mapping[int, int]) -> Percentiles:
    """Percentiles of durations given as their count in each bin."""
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
