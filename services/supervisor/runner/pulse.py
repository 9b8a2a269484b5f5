"""Whether an engine that was ready still lives: a pure decision over what is seen of it now and then."""

from schemas.base import Record

CHECKS = 6
"""How often it is looked at in the time after which it counts as hung."""
MISSED_AT_LEAST = 3
"""Looks in a row without a sign of life: a runner that stood still itself must not blame its engine."""
COMPUTING_FACTOR = 10.0
"""An engine that computes is given so many times longer: it may be at a long prompt in its only thread."""
_COMPUTING_SHARE = 0.1
"""Of one processor, from which on it counts as computing: a crowded machine may leave it no more."""


class Signs(Record):
    """What is seen of an engine at one moment."""

    at_s: float
    """On a clock that stands still while the machine sleeps."""
    healthy: bool
    """Its health path answered in time."""
    heard_bytes: int
    """What has come on all its answers since it was started."""
    cpu_s: float
    """Processor time that its processes have used."""


class Pulse:
    """Remembers when there was a sign of life."""

    def __init__(self, first: Signs, hang_s: float) -> None:
        self._last = first
        self._hang_s = hang_s
        self._alive_at_s = self._still_since_s = first.at_s
        self._missed = 0

    def is_hung(self, now: Signs) -> bool:
        """Whether it gave no sign of life for `hang_s`, or computed without any for ten times as long."""
        last, self._last = self._last, now
        self._missed += 1
        if now.healthy or now.heard_bytes != last.heard_bytes:
            self._alive_at_s, self._missed = now.at_s, 0
        if not self._missed or now.cpu_s - last.cpu_s >= _COMPUTING_SHARE * (now.at_s - last.at_s):
            self._still_since_s = now.at_s
        return self._missed >= MISSED_AT_LEAST and (
            now.at_s - self._still_since_s >= self._hang_s
            or now.at_s - self._alive_at_s >= COMPUTING_FACTOR * self._hang_s
        )
