"""How long to wait before a delivery is tried again, and when it is given up. Pure."""

import itertools

from modelyard.backoff import with_jitter

PAUSES_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0)
"""Before the second attempt, the third, …: about 16 hours in all."""
MAX_ATTEMPTS = len(PAUSES_S) + 1
_JITTER = 0.2
_LONGEST_ASKED_S = 3600.0


def pause_s(attempt: int, asked_s: float | None = None, chance: float | None = None) -> float:
    """After the failed `attempt` (1, 2, …); `asked_s`: what the receiver's Retry-After says.

    `chance`: 0 to 1, what spreads those that failed together; None: a random one.
    """
    if asked_s is not None:
        return min(max(asked_s, PAUSES_S[0]), _LONGEST_ASKED_S)
    planned = PAUSES_S[min(max(attempt, 1), len(PAUSES_S)) - 1]
    return with_jitter(planned, _JITTER, chance)


def timeout_s() -> float:
    """How long a receiver may be away and yet be told."""
    return list(itertools.accumulate(PAUSES_S))[-1]
