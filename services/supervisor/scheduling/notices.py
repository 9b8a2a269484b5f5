"""What the scheduler says about models that wait, for everybody to see."""

import time
from collections.abc import Mapping

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.base import model_key
from schemas.placing import WaitingModel

log = logs.get(__name__)

TTL_S = 10
RENEW_S = 4.0


class Notices:
    """A key for every model that waits; it goes when the waiting ends."""

    def __init__(self, bus: Bus) -> None:
        self._store = BucketStore(bus, buckets.WAITING)
        self._told: dict[str, tuple[str, float]] = {}

    async def tell(self, reasons: Mapping[str, str], since: Mapping[str, float]) -> None:
        """Show these reasons, and no others."""
        for model in self._told.keys() - reasons.keys():
            del self._told[model]
            await self._store.delete(model_key(model))
        for model, reason in reasons.items():
            before, at = self._told.get(model, ("", 0.0))
            if before == reason and time.monotonic() - at < RENEW_S:
                continue
            if before != reason:
                log.info("model_waits", model=model, reason=reason)
            self._told[model] = reason, time.monotonic()
            notice = WaitingModel(model=model, reason=reason, since=since.get(model, time.time()))
            await self._store.put(model_key(model), notice, ttl_s=TTL_S)
