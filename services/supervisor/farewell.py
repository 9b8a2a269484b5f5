"""Instances of a model that leaves the registry: they must be gone, or are drained and stopped."""

import asyncio

from modelyard import logging
from modelyard.bus import Bus
from modelyard.state import Mirror
from schemas import subjects
from schemas.errors import Conflict, DeadlineExceeded, YardError
from schemas.instances import LIVE, Instance, StopInstance

log = logging.get(__name__)

_GONE_S = 50.0
"""Longer than a runner may take: it drains for 30 s and ends its engine after that."""


class Farewell:
    """A view on the instances, and the order to stop."""

    def __init__(self, bus: Bus, instances: Mirror[Instance]) -> None:
        self._bus = bus
        self._instances = instances

    def living(self, model: str) -> list[Instance]:
        """Instances of `model` that are not gone."""
        return [i for i in self._instances.values.values() if i.model == model and i.state in LIVE]

    def check(self, model: str, *, force: bool) -> None:
        """Conflict if instances live and nobody forces it."""
        if not force and (living := self.living(model)):
            names = ", ".join(instance.instance for instance in living)
            raise Conflict(
                f"{model} is running ({names}). Stop it first, or use force to have it drained and stopped.",
                param="force",
            )

    async def stop_all(self, model: str) -> tuple[str, ...]:
        """Have every instance of `model` finish what it has and end; their ids, once all are gone."""
        stopped: set[str] = set()
        try:
            async with asyncio.timeout(_GONE_S):
                while living := self.living(model):
                    for instance in living:
                        if instance.instance not in stopped:
                            stopped.add(instance.instance)
                            await self._stop(instance)
                    await self._until_changed(model, stopped)
        except TimeoutError:
            raise DeadlineExceeded(f"{model} is out of the registry, but not yet stopped.") from None
        return tuple(sorted(stopped))

    async def _until_changed(self, model: str, told: set[str]) -> None:
        """Until all are gone, or one lives that was not told yet: it was starting when the model left."""
        await self._instances.until(
            lambda _: not (living := self.living(model)) or any(i.instance not in told for i in living)
        )

    async def _stop(self, instance: Instance) -> None:
        order = StopInstance(instance=instance.instance)
        try:
            await self._bus.call(subjects.NODE_STOP, order, node=instance.node)
        except YardError as error:
            # Its record says when it is gone, whoever ends it.
            log.warning("stop_not_taken", instance=instance.instance, error=error.message)
