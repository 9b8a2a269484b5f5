"""Instances of a model that leaves the registry: they must be gone, or are waited for."""

import asyncio

from modelyard.bus.records import BucketCache
from schemas.errors import Conflict, DeadlineExceeded
from schemas.instances import LIVE, Instance

_GONE_S = 50.0
"""Longer than a runner may take: it drains for 30 s and ends its engine after that."""


class Farewell:
    """A view on the instances."""

    def __init__(self, instances: BucketCache[Instance]) -> None:
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

    async def until_gone(self, model: str) -> tuple[str, ...]:
        """Wait until no instance of `model` lives: the scheduler has those of a deleted model drained and
        stopped. Their ids."""
        ended: set[str] = set()
        try:
            async with asyncio.timeout(_GONE_S):
                while living := {one.instance for one in self.living(model)}:
                    ended |= living
                    await self._instances.until(lambda _: {o.instance for o in self.living(model)} != living)
        except TimeoutError:
            raise DeadlineExceeded(f"{model} is out of the registry, but not yet stopped.") from None
        return tuple(sorted(ended))
