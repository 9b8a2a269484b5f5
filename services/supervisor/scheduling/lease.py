"""Who decides: one supervisor at a time, and nodes take nothing from those before it."""

import asyncio
import contextlib
import time

from modelyard import logging
from modelyard.bus import Bus
from modelyard.state import Store
from schemas import buckets
from schemas.batches import Lease
from schemas.errors import BrokerUnavailable, Conflict

log = logging.get(__name__)

KEY = "scheduler"
TTL_S = 6
RENEW_S = 2.0
_TRY_S = 1.0
_NOBODY = ""


class SchedulerLease:
    """The right to decide, as long as it is renewed. Its revision grows with every change of hands."""

    def __init__(self, bus: Bus, holder: str) -> None:
        self._store = Store(bus, buckets.LEASES)
        self._holder = holder
        self._revision = 0
        self._renewed_at = 0.0

    async def acquire(self) -> int:
        """Wait until it is ours; the epoch."""
        while True:
            with contextlib.suppress(BrokerUnavailable, Conflict):
                entry = await self._store.entry(KEY)
                # What this node held is ours: the process that held it is not there any more.
                if entry is None or entry[0].holder in (self._holder, _NOBODY):
                    return await self._put(entry[1] if entry else 0)
            await asyncio.sleep(_TRY_S)

    async def held(self) -> None:
        """Renew it; return when it is lost, or may be."""
        while time.monotonic() - self._renewed_at < TTL_S - RENEW_S:
            await asyncio.sleep(RENEW_S)
            try:
                await self._put(self._revision)
            except Conflict:
                break
            except BrokerUnavailable:
                continue
        log.warning("lease_lost", key=KEY)

    async def release(self) -> None:
        """Let another decide at once."""
        with contextlib.suppress(BrokerUnavailable, Conflict):
            await self._store.put(KEY, Lease(holder=_NOBODY), last=self._revision, ttl_s=1)

    async def _put(self, last: int) -> int:
        asked_at = time.monotonic()
        self._revision = await self._store.put(KEY, Lease(holder=self._holder), last=last, ttl_s=TTL_S)
        self._renewed_at = asked_at
        return self._revision
