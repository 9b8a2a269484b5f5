"""Latencies in bins: each a twentieth wider than the one before, so that any percentile is within 2.5 %."""

import math
from collections.abc import Mapping

from schemas.usage import Percentiles

_GROWTH = 1.05
_LOG = math.log(_GROWTH)
_LAST = 400
"""About three and a half days, in milliseconds."""


def bin_of(ms: float | None) -> int | None:
    """The bin of a time; None if it was not measured, or is none."""
    if ms is None or not ms >= 0:
        return None
    # Infinity is the distance of two times that cannot be.
    return math.ceil(min(_LAST, math.log(ms) / _LOG)) if ms > 1 else 0


def middle_ms(number: int) -> float:
    """The time that stands for a bin, no further than 2.5 % from any in it."""
    return 2 * _GROWTH**number / (1 + _GROWTH) if number else 1.0


def percentiles(bins: Mapping[int, int]) -> Percentiles:
    """Of times given as how many are in each bin."""
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
