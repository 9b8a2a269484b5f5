"""Who decides: one supervisor at a time, and nodes take nothing from those before it."""

import asyncio
import contextlib
import time

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.errors import BrokerUnavailable, Conflict
from schemas.leases import SCHEDULER, Lease

log = logs.get(__name__)

KEY = SCHEDULER
TTL_S = 6
RENEW_S = 2.0
_TRY_S = 1.0
_NOBODY = ""


class SchedulerLease:
    """The right to decide, as long as it is renewed. Its revision grows with every change of hands."""

    def __init__(self, bus: Bus, holder: str) -> None:
        self._store = BucketStore(bus, buckets.LEASES)
        self._holder = holder
        self._revision = 0
        self._renewed_at = 0.0
        self._epoch = 0

    async def acquire(self) -> int:
        """Wait until it is ours; the epoch."""
        while True:
            with contextlib.suppress(BrokerUnavailable, Conflict):
                # The mark that an expired lease leaves behind has a revision too.
                lease, revision = await self._store.head(KEY)
                # What this node held is ours: the process that held it is not there any more.
                if lease is None or lease.holder in (self._holder, _NOBODY):
                    self._epoch = await self._put(revision)
                    # Every node hears of it before the first order.
                    await self._put(self._epoch)
                    return self._epoch
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
        lease = Lease(holder=self._holder, epoch=self._epoch)
        self._revision = await self._store.put(KEY, lease, last=last, ttl_s=TTL_S)
        self._renewed_at = asked_at
        return self._revision
