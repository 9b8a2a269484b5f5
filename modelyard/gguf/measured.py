"""What was measured is better than what was calculated: how it changes the next estimate."""

from collections.abc import Sequence
from typing import NamedTuple

RECENT = 5
"""So many of the last measurements count."""
MARGIN_PERCENT = 3
"""On top of what was measured, for a load that was not quite the worst."""
FLOOR_PERCENT = 50
"""A correction never goes below this part of the estimate: memory that was reserved but not yet touched
does not show in what a process is measured to hold."""
CEILING_PERCENT = 200
"""What was measured under other settings never more than doubles an estimate."""


class Measured(NamedTuple):
    """What an instance took on one device, and what had been estimated for it, in bytes."""

    used_bytes: int
    estimated_bytes: int


def correct(estimate_bytes: int, same: Sequence[Measured] = (), similar: Sequence[Measured] = ()) -> int:
    """The estimate for one device after experience, oldest measurement first.

    `same` was measured with the same files, profile, context, slots and cache type: the largest of the recent
    ones, with a margin, replaces the estimate. Without it, `similar` (the same files run otherwise) scales
    the estimate by the largest recent ratio of used to estimated bytes.
    """
    floor = _percent(estimate_bytes, FLOOR_PERCENT)
    if same:
        used = max(measured.used_bytes for measured in same[-RECENT:])
        return max(floor, _percent(used, 100 + MARGIN_PERCENT))
    known = [measured for measured in similar[-RECENT:] if measured.estimated_bytes > 0]
    if not known:
        return estimate_bytes
    scaled = max(-(-estimate_bytes * used // estimated) for used, estimated in known)
    return min(_percent(estimate_bytes, CEILING_PERCENT), max(floor, _percent(scaled, 100 + MARGIN_PERCENT)))


def _percent(amount: int, percent: int) -> int:
    return -(-amount * percent // 100)
