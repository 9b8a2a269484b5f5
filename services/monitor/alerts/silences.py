"""Silences: alerts that nobody is to be told of for a while."""

import time

from modelyard.bus import audit
from modelyard.bus.connection import Bus
from schemas import buckets
from schemas.alerts import MAX_SILENCE_S, Silence, SilenceAlerts, SilenceRef
from schemas.base import new_id
from schemas.errors import BadRequest, Conflict, NotFound
from services.monitor.owned import Owned

MAX_SILENCES = 200
_MAX_REASON = 500


class Silences:
    """Reads and changes them; each expires by itself."""

    def __init__(self, own: Owned[Silence]) -> None:
        self._own = own

    @classmethod
    async def read(cls, bus: Bus) -> "Silences":
        """As they are stored."""
        return cls(await Owned.read(bus, buckets.SILENCES))

    def now(self) -> tuple[Silence, ...]:
        """Those that hold, the first to end first."""
        held = [each for each in self._own.values.values() if each.until > time.time()]
        self._own.values = {each.silence: each for each in held}
        return tuple(sorted(held, key=lambda each: each.until))

    async def put(self, asked: SilenceAlerts) -> Silence:
        """Begin one now."""
        if not 1 <= asked.for_s <= MAX_SILENCE_S:
            raise BadRequest("A silence lasts from one second to 366 days.", param="for_s")
        if not asked.reason.strip() or len(asked.reason) > _MAX_REASON:
            raise BadRequest(f"Say why, in at most {_MAX_REASON} characters.", param="reason")
        if asked.rule is None and not asked.labels:
            raise BadRequest("Say what is to be silent: a rule, labels, or both.", param="rule")
        if len(self.now()) >= MAX_SILENCES:
            raise Conflict(f"There are {MAX_SILENCES} silences already; end one first.")
        return await self._begin(asked, time.time())

    async def _begin(self, asked: SilenceAlerts, now: float) -> Silence:
        silence = Silence(
            silence=new_id(),
            until=now + asked.for_s,
            reason=asked.reason.strip(),
            created_at=now,
            rule=asked.rule,
            labels=asked.labels,
        )
        await self._own.put(silence.silence, silence, ttl_s=int(asked.for_s) + 1)
        audit.changed(f"silence {silence.silence}", None, silence)
        return silence

    async def end(self, ref: SilenceRef) -> Silence:
        """End one now; NotFound."""
        silence = next((each for each in self.now() if each.silence == ref.silence), None)
        if silence is None:
            raise NotFound(f"There is no silence {ref.silence!r}; `yard alerts` lists them.", param="silence")
        await self._own.delete(silence.silence)
        audit.changed(f"silence {silence.silence}", silence, None)
        return silence
