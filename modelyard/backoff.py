"""Back-off: the pause before another attempt, its jitter, and what a server's Retry-After header asks for."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf


def exponential_s(attempt: int, first_s: float, max_s: float = inf) -> float:
    """The pause after failed attempt 1, 2, …: `first_s`, doubled each time, at most `max_s`."""
    return min(first_s * 2.0 ** (attempt - 1), max_s)


def with_jitter(pause_s: float, jitter: float, position: float | None = None) -> float:
    """`pause_s` plus or minus the fraction `jitter`, so that what failed together is not retried together.

    `position`: 0 (shortest) to 1 (longest); None: random.
    """
    drawn = random.random() if position is None else position  # noqa: S311 - not for secrets
    return pause_s * (1 - jitter + 2 * jitter * drawn)


def parse_retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; None where it holds neither."""
    value = (header or "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
