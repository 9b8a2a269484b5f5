"""The scheduler's lease: one supervisor decides at a time, and nodes take no orders of those before it."""

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

TTL_S = 6
RENEW_S = 2.0
_RETRY_S = 1.0
_RELEASED = ""


class SchedulerLease:
    """Held as long as it is renewed. Its epoch grows with every change of holder."""

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
                # The marker that an expired lease leaves behind has a revision too.
                lease, revision = await self._store.head(SCHEDULER)
                # A lease of this node is ours: the process that held it is gone.
                if lease is None or lease.holder in (self._holder, _RELEASED):
                    self._epoch = await self._put(revision)
                    # Every node sees the epoch before the first order.
                    await self._put(self._epoch)
                    return self._epoch
            await asyncio.sleep(_RETRY_S)

    async def wait_until_lost(self) -> None:
        """Renew it; return when it is lost, or may be."""
        while time.monotonic() - self._renewed_at < TTL_S - RENEW_S:
            await asyncio.sleep(RENEW_S)
            try:
                await self._put(self._revision)
            except Conflict:
                break
            except BrokerUnavailable:
                continue
        log.warning("lease_lost", key=SCHEDULER)

    async def release(self) -> None:
        """Let another supervisor acquire it at once."""
        with contextlib.suppress(BrokerUnavailable, Conflict):
            await self._store.put(SCHEDULER, Lease(holder=_RELEASED), last=self._revision, ttl_s=1)

    async def _put(self, last: int) -> int:
        sent_at = time.monotonic()
        lease = Lease(holder=self._holder, epoch=self._epoch)
        self._revision = await self._store.put(SCHEDULER, lease, last=last, ttl_s=TTL_S)
        self._renewed_at = sent_at
        return self._revision
