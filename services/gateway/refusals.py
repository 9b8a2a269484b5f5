"""Requests that wait for a model when its circuit opens are told so, and not left waiting."""

import asyncio

from modelyard.bus.tasks import Tasks
from schemas.instances import Instance
from services.gateway.catalog import Catalog, start_failed
from services.gateway.inference.inference import Inference

ASKED_AGAIN_S = 1.0
"""Within this a request that was with the engine when it died is back in the queue."""


class Refusals:
    """Listens from its start on, as long as the gateway runs."""

    def __init__(self, tasks: Tasks, catalog: Catalog, inference: Inference) -> None:
        self._tasks = tasks
        self._catalog = catalog
        self._inference = inference
        catalog.instances.listen(self._on_instance)

    def _on_instance(self, _key: str, instance: Instance | None) -> None:
        if instance is not None and instance.circuit_open:
            self._tasks.spawn(self._refuse(instance), "refuse what waits")

    async def _refuse(self, instance: Instance) -> None:
        for pause_s in (0.0, ASKED_AGAIN_S):
            await asyncio.sleep(pause_s)
            if self._catalog.start_failure(instance.model) == instance:
                for answer in tuple(self._inference.waiting(instance.model)):
                    answer.fail(start_failed(instance))
