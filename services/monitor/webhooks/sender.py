"""What every way of telling looks like."""

from typing import Protocol

from services.monitor.webhooks.occurrence import Occurrence


class NotDelivered(Exception):
    """It was not taken; the message says why, without anything secret."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Sender(Protocol):
    """Tells one receiver."""

    async def send(self, occurrence: Occurrence) -> None:
        """Return when it was taken; NotDelivered otherwise, after a bounded time."""
        ...
