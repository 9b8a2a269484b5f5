"""When a disk will be full: the Theil-Sen line, the median of the slopes between all pairs of samples. Pure.

A file that comes and goes moves it little; a disk that fills day by day moves it as much as it does.
"""

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

DAY_S = 86400.0
MIN_SPAN_S = 6 * 3600.0
"""Less than this says nothing about days."""
MAX_SAMPLES = 200
"""More are thinned out evenly: pairs grow with the square."""


class Fullness(NamedTuple):
    """Days until nothing is free; None: not as things are going."""

    days: float | None
    soonest: float | None
    latest: float | None


def days_until_full(samples: Sequence[tuple[float, float]]) -> Fullness:
    """By samples of (unix seconds, free bytes). The interval: slopes of the middle nine tenths of pairs."""
    thinned = _thinned(sorted(samples))
    if len(thinned) < 3 or thinned[-1][0] - thinned[0][0] < MIN_SPAN_S:
        return Fullness(None, None, None)
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in combinations(thinned, 2)
        if later[0] > earlier[0]
    )
    free = thinned[-1][1]
    low, high = slopes[len(slopes) // 20], slopes[-1 - len(slopes) // 20]
    return Fullness(_days(free, statistics.median(slopes)), _days(free, low), _days(free, high))


def _days(free: float, slope: float) -> float | None:
    return round(free / -slope / DAY_S, 2) if slope < 0 else None


def _thinned(samples: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    step = -(-len(samples) // MAX_SAMPLES) or 1
    # Counted from the newest, which says how much is free.
    return samples[::-1][::step][::-1]
