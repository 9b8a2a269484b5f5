"""How long to wait before asking again, and when to stop asking."""

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
    unreachable_s: float = 300.0
    """A network that is gone is waited for so long, however often it is tried."""

    def gives_up(self, idle_attempts: int, idle_s: float, *, unreachable: bool) -> bool:
        """Whether to stop after idle_attempts that brought nothing for idle_s."""
        return idle_attempts >= self.attempts and (not unreachable or idle_s >= self.unreachable_s)

    def pause_s(self, idle_attempts: int, retry_after_s: float | None) -> float:
        """The pause after idle_attempts attempts that brought nothing; the server's own wish goes first."""
        if retry_after_s is not None:
            return min(retry_after_s, _MAX_RETRY_AFTER_S)
        if idle_attempts == 0:
            return self.first_pause_s / 10
        pause_s = min(self.first_pause_s * 2.0 ** (idle_attempts - 1), self.max_pause_s)
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
