"""Demand: queued requests, start and stop commands, and the records of models that wait."""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import model_key
from schemas.placement import DesiredState, Refusal, WaitingModel
from services.supervisor.planning.world import Demand

log = logs.get(__name__)

START_EXPIRY_S = 120.0
"""A start command that cannot be carried out expires after so long."""
TTL_S = 10
RENEW_S = 4.0
REFUSED_S = 10.0
"""The requests of a model that cannot run here are refused for so long."""


class DemandTracker:
    """Since when each model waits, and the pending start and stop commands."""

    def __init__(self, desired: Iterable[DesiredState] = (), since: Mapping[str, float] = {}) -> None:
        self._desired = {state.model: state for state in desired}
        self._since = dict(since)

    @property
    def desired(self) -> Mapping[str, DesiredState]:
        """By model: commands that are neither carried out nor superseded."""
        return self._desired

    @property
    def start_requested(self) -> frozenset[str]:
        return frozenset(model for model, state in self._desired.items() if state.running)

    @property
    def stop_requested(self) -> frozenset[str]:
        return frozenset(model for model, state in self._desired.items() if not state.running)

    def copy(self) -> "DemandTracker":
        """For a preview: what happens to the copy does not change the demand."""
        return DemandTracker(self._desired.values(), self._since)

    def request_start(self, model: str, now: float) -> None:
        self._desired[model] = DesiredState(model=model, running=True, at=now)

    def request_stop(self, model: str, now: float) -> None:
        self._desired[model] = DesiredState(model=model, running=False, at=now)

    def extend(self, models: Collection[str], now: float) -> None:
        """Start commands of these models do not expire: work for them makes progress."""
        for model in self.start_requested & set(models):
            if now > self._desired[model].at + START_EXPIRY_S / 2:
                self.request_start(model, now)

    def complete(self, models: Collection[str]) -> None:
        """Start commands of these models are carried out, or refused."""
        for model in self.start_requested & set(models):
            del self._desired[model]

    def update(
        self, queued: Mapping[str, int], ready: Collection[str], live: Collection[str], now: float
    ) -> dict[str, Demand]:
        """The demand of each model now; `ready` and `live` are the models with such an instance.

        Expired start commands end here, and stop commands whose model is stopped and requested again.
        """
        demanded = {model for model, count in queued.items() if count}
        for state in tuple(self._desired.values()):
            is_expired = state.running and now > state.at + START_EXPIRY_S
            is_superseded = not state.running and state.model in demanded and state.model not in live
            if is_expired or is_superseded:
                del self._desired[state.model]
        demanded |= self.start_requested
        for model in self._since.keys() - demanded | self._since.keys() & set(ready):
            del self._since[model]
        for model in demanded - set(ready):
            self._since.setdefault(model, now)
        return {
            model: Demand(queued=queued.get(model, 0), since=self._since.get(model)) for model in demanded
        }


class StoredDemand:
    """The demand on the broker: loaded when the lease is acquired, written by its holder."""

    def __init__(
        self, bus: Bus, desired: BucketCache[DesiredState], waiting: BucketCache[WaitingModel]
    ) -> None:
        self._store = BucketStore(bus, buckets.DESIRED_STATE)
        self._desired = desired
        self._waiting = waiting
        self._written: dict[str, DesiredState] = {}
        self._lock = asyncio.Lock()

    @classmethod
    async def start(cls, bus: Bus, tasks: Tasks) -> "StoredDemand":
        desired: BucketCache[DesiredState] = await BucketCache.start(bus, buckets.DESIRED_STATE, tasks)
        waiting: BucketCache[WaitingModel] = await BucketCache.start(bus, buckets.WAITING, tasks)
        return cls(bus, desired, waiting)

    def load(self) -> DemandTracker:
        """The demand as the lease holder before left it."""
        self._written = {state.model: state for state in self._desired.values.values()}
        waiting = (model for model in self._waiting.values.values() if model.refused is None)
        return DemandTracker(self._written.values(), {model.model: model.since for model in waiting})

    async def write(self, demand: DemandTracker) -> None:
        async with self._lock:
            for model in self._written.keys() - demand.desired.keys():
                await self._store.delete(model_key(model))
                del self._written[model]
            for model, state in tuple(demand.desired.items()):
                if self._written.get(model) != state:
                    await self._store.put(model_key(model), state)
                    self._written[model] = state


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
