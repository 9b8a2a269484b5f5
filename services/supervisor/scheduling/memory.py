"""What a scheduler knows beyond what shows anyway, kept on the broker for the one that follows it."""

import asyncio

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import model_key
from schemas.placing import DesiredState, WaitingModel
from services.supervisor.scheduling.demand import Demands


class Memory:
    """Wishes and the beginnings of waits: read when the lease is taken, written by its holder."""

    def __init__(self, bus: Bus, wishes: BucketCache[DesiredState], waits: BucketCache[WaitingModel]) -> None:
        self._store = BucketStore(bus, buckets.DESIRED_STATE)
        self._wishes = wishes
        self._waits = waits
        self._written: dict[str, DesiredState] = {}
        self._lock = asyncio.Lock()

    @classmethod
    async def start(cls, bus: Bus, tasks: Tasks) -> "Memory":
        wishes: BucketCache[DesiredState] = await BucketCache.start(bus, buckets.DESIRED_STATE, tasks)
        waits: BucketCache[WaitingModel] = await BucketCache.start(bus, buckets.WAITING, tasks)
        return cls(bus, wishes, waits)

    def recall(self, demands: Demands) -> None:
        """Go on from what was left."""
        self._written = {wish.model: wish for wish in self._wishes.values.values()}
        demands.restore(self._written.values(), self._waits.values.values())

    async def keep(self, demands: Demands) -> None:
        """Have the broker know what `demands` does."""
        async with self._lock:
            for model in self._written.keys() - demands.wishes.keys():
                await self._store.delete(model_key(model))
                del self._written[model]
            for model, wish in tuple(demands.wishes.items()):
                if self._written.get(model) != wish:
                    await self._store.put(model_key(model), wish)
                    self._written[model] = wish
