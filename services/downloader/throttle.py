"""Bandwidth: a transfer that may not take all of it reads on only when its time has come."""

import asyncio
import contextlib
from time import monotonic


class Throttle:
    """Shared by everything that reads for one download; the limit may change at any time."""

    def __init__(self) -> None:
        self._bytes_per_s: int | None = None
        self._free_at = 0.0
        self._changed = asyncio.Event()

    def limit(self, bytes_per_s: int | None) -> None:
        """From now on at most so much; None: no limit."""
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def take(self, count_bytes: int) -> None:
        """Return when these bytes, which have just been read, have had their time."""
        if self._bytes_per_s is None:
            return
        now = monotonic()
        self._free_at = max(self._free_at, now) + count_bytes / self._bytes_per_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), self._free_at - now)
