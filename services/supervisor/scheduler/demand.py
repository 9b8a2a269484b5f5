"""Demand: requests in the queues, and start and stop commands, stored for the next lease holder."""

import asyncio
from collections.abc import Collection, Iterable, Mapping

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import model_key
from schemas.placing import DesiredState, WaitingModel
from services.supervisor.planning.world import Demand

START_EXPIRY_S = 120.0
"""A start command that cannot be carried out expires after so long."""


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
