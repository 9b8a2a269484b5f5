"""The records of waiting models: why, since when, and whether their requests are refused."""

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.base import model_key
from schemas.placing import Refusal, WaitingModel

log = logs.get(__name__)

TTL_S = 10
RENEW_S = 4.0
REFUSED_S = 10.0
"""The requests of a model that cannot run here are refused for so long."""


class _Refused(NamedTuple):
    record: WaitingModel
    revision: int
    at: float


class WaitingModels:
    """A record for every model that waits or is refused, deleted when that ends."""

    def __init__(self, bus: Bus) -> None:
        self._store = BucketStore(bus, buckets.WAITING)
        self._published: dict[str, tuple[WaitingModel, float]] = {}
        self._refused: dict[str, _Refused] = {}

    def refuse(self, model: str, reason: str, revision: int) -> None:
        """No waiting helps this revision of the model: its requests are refused from now on, for a while."""
        now = time.time()
        refusal = Refusal(error=f"It cannot run here: {reason}.", retry_at=now + REFUSED_S)
        record = WaitingModel(model=model, reason=reason, since=now, refused=refusal)
        self._refused[model] = _Refused(record, revision, now)
        log.warning("model_refused", model=model, reason=reason)

    def is_refused(self, model: str) -> bool:
        return model in self._refused

    def refusal_since(self, model: str, since: float) -> str | None:
        """Why the model was refused after `since` (unix seconds); None if it was not."""
        refused = self._refused.get(model)
        if refused is None or refused.at < since or refused.record.refused is None:
            return None
        return refused.record.refused.error

    def expire(self, revisions: Mapping[str, int], startable: Iterable[str]) -> None:
        """End refusals that are old, or of models that were changed or can start by now."""
        ended = set(startable)
        for model, refused in tuple(self._refused.items()):
            is_old = time.time() >= refused.at + REFUSED_S
            if is_old or model in ended or revisions.get(model) != refused.revision:
                del self._refused[model]

    async def publish(self, reasons: Mapping[str, str], since: Mapping[str, float]) -> None:
        """Have a record for these models and the refused ones, and no others."""
        now = time.time()
        records = {
            model: WaitingModel(model=model, reason=reason, since=since.get(model, now))
            for model, reason in reasons.items()
        }
        for model, refused in self._refused.items():
            waiting = records.get(model, refused.record)
            records[model] = msgspec.structs.replace(waiting, refused=refused.record.refused)
        for model in self._published.keys() - records.keys():
            del self._published[model]
            await self._store.delete(model_key(model))
        for record in records.values():
            await self._publish(record)

    async def _publish(self, record: WaitingModel) -> None:
        before, at = self._published.get(record.model, (None, 0.0))
        is_changed = before is None or (before.reason, before.refused) != (record.reason, record.refused)
        if not is_changed and (record.refused is not None or time.monotonic() - at < RENEW_S):
            return
        if before is None or before.reason != record.reason:
            log.info("model_waiting", model=record.model, reason=record.reason)
        self._published[record.model] = record, time.monotonic()
        await self._store.put(model_key(record.model), record, ttl_s=TTL_S)
