"""A model that somebody changed gets another chance: what failed was what it had been before."""

from collections.abc import Mapping

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets
from schemas.base import model_key
from schemas.errors import YardError
from schemas.instances import Instance, InstanceState
from schemas.models import ModelSpec

log = logs.get(__name__)


class Amends:
    """Takes the pauses out of the failure records of one node when their model is edited.

    Of a model that left the registry it takes the records away: nobody would ever start it again.
    """

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        node: str,
        models: BucketCache[ModelSpec],
        instances: BucketCache[Instance],
    ) -> None:
        self._tasks = tasks
        self._node = node
        self._models = models
        self._instances = instances
        self._store = BucketStore(bus, buckets.INSTANCES)

    def begin(self) -> None:
        """Look now, after every edit, and after every failure: it may be of a start before the edit."""
        self._models.listen(lambda _key, _spec: self._look())
        self._instances.listen(lambda _key, _instance: self._look())
        self._look()

    def _look(self) -> None:
        for key, instance in self._instances.values.items():
            if instance.node != self._node:
                continue
            if is_of_nobody(instance, self._models.revisions):
                self._tasks.spawn(self._forget(key), "forget a failure")
            elif is_outdated(instance, self._models.revisions):
                self._tasks.spawn(self._amend(key, instance), "take a pause out")

    async def _forget(self, key: str) -> None:
        try:
            await self._store.delete(key, last=self._instances.revisions.get(key))
        except YardError as error:
            log.info("failure_not_forgotten", instance=key, error=error.message)

    async def _amend(self, key: str, instance: Instance) -> None:
        """The reason stays to be read; only the next start takes it away."""
        forgiven = msgspec.structs.replace(instance, failures=0, retry_at=None, circuit_open=False)
        try:
            await self._store.put(key, forgiven, last=self._instances.revisions.get(key))
        except YardError as error:
            log.info("pause_not_taken_out", instance=key, error=error.message)
        else:
            log.info("pause_taken_out", instance=key, model=instance.model)


def is_of_nobody(instance: Instance, revisions: Mapping[str, int]) -> bool:
    """Whether it failed, and tells nothing any more: its model left, or was refused as it was before."""
    if instance.state is not InstanceState.FAILED:
        return False
    now, was_refused = revisions.get(model_key(instance.model)), not instance.started_at
    return now is None or (was_refused and now != instance.revision)


def is_outdated(instance: Instance, revisions: Mapping[str, int]) -> bool:
    """Whether it failed, pauses for that, and its model has another revision by now."""
    pauses = instance.state is InstanceState.FAILED and instance.retry_at is not None
    now = revisions.get(model_key(instance.model))
    return pauses and now is not None and now != instance.revision
