"""What people ask of the scheduler: start, stop, and what would happen if."""

import asyncio
import time

from modelyard.bus.records import BucketCache
from schemas.errors import Conflict, StartFailed
from schemas.instances import Instance
from schemas.models import ModelRef, ModelStarting, ModelStopping
from schemas.placing import PlanAnswer, PlanQuery
from services.supervisor.planning.explain import explain
from services.supervisor.planning.plan import plan
from services.supervisor.registry import Registry
from services.supervisor.scheduling.scheduler import Scheduler

_START_SHOWS_S = 4.0
"""Within this a caller hears that his start was taken, or what it waits for."""


class Wishes:
    """The `model` commands that the scheduler answers."""

    def __init__(self, registry: Registry, scheduler: Scheduler, instances: BucketCache[Instance]) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._instances = instances

    async def start(self, ref: ModelRef) -> ModelStarting:
        """Start a model; Conflict with what it waits for if that takes longer. It stays asked for."""
        model = self._registry.find(ref.model).name
        if not self._scheduler.serving(model):
            asked_at = time.time()
            await self._scheduler.wish(model)
            try:
                async with asyncio.timeout(_START_SHOWS_S):
                    await self._instances.until(
                        lambda _: bool(self._scheduler.serving(model) or self._refused(model, asked_at))
                    )
            except TimeoutError:
                reason = self._scheduler.reasons.get(model, "the node did not take it")
                raise Conflict(f"{model} is not started yet: {reason}.") from None
            if not self._scheduler.serving(model):
                raise StartFailed(self._refused(model, asked_at) or f"{model} failed at once.")
        instance = self._scheduler.serving(model)[0]
        return ModelStarting(model=model, instance=instance.instance, state=instance.state)

    def _refused(self, model: str, since: float) -> str | None:
        """Why it failed since then, or cannot run here at all."""
        ended = (one for one in self._instances.values.values() if one.model == model and one.error)
        return next((one.error for one in ended if one.changed_at >= since), None)

    async def stop(self, ref: ModelRef) -> ModelStopping:
        """Drain and stop every instance; it stays down until somebody asks for it."""
        model = self._registry.find(ref.model).name
        return ModelStopping(model=model, instances=await self._scheduler.stop(model))

    async def plan(self, query: PlanQuery) -> PlanAnswer:
        """What a request for this model would lead to now."""
        model = self._registry.find(query.model).name
        world = await self._scheduler.world(also=model)
        return explain(model, world, plan(world))
