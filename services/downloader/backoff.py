"""How long to wait before asking again."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from msgspec import Struct

_MAX_RETRY_AFTER_S = 600.0


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Attempts in a row without a single new byte, and the pause between them, doubled each time."""

    attempts: int = 6
    first_pause_s: float = 1.0
    max_pause_s: float = 30.0

    def pause_s(self, idle_attempts: int, retry_after_s: float | None) -> float:
        """The pause after idle_attempts attempts that brought nothing; the server's own wish goes first."""
        if retry_after_s is not None:
            return min(retry_after_s, _MAX_RETRY_AFTER_S)
        pause_s = min(self.first_pause_s * 2.0 ** max(0, idle_attempts - 1), self.max_pause_s)
        return pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, keeps no secret


def parse_retry_after_s(header: str | None) -> float | None:
    """A Retry-After header, which is either seconds or a date."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
