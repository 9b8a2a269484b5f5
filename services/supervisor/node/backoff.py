"""Back-off after failures: pauses that double, a circuit that opens, and what resets them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from modelyard.backoff import exponential_s
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

AFTER_CRASH_S = 1.0
"""After a crash of a proven instance: time for the gateways to give up the answers it had in flight."""
FIRST_S = 2.0
PROVEN_S = 120.0
"""An instance that was ready for so long is proven: its failure does not count in a row."""
OPENS_AFTER = 5
"""So many failures in a row open the circuit."""
OPEN_S = 600.0
"""With an open circuit one start is tried after so long."""


class Failure(NamedTuple):
    """The fields of a failed instance's record that decide about the next start."""

    failures: int
    """In a row, this one included; 0: the instance was proven."""
    retry_at: float
    """Unix seconds before which the model is not started again."""
    circuit_open: bool
    error: str


def failure(last: Instance, error: str, now: float) -> Failure:
    """What follows from the failure of `last` at `now` (unix seconds)."""
    count = count_failures(last.failures, None if last.ready_at is None else now - last.ready_at)
    opens = count >= OPENS_AFTER
    sentence = f"{_explain_open_circuit(last.model, count)} The last error: {error}" if opens else error
    return Failure(count, now + pause_s(count), opens, sentence)


def count_failures(before: int, ready_s: float | None) -> int:
    """Failures in a row, with that of an instance that was ready for `ready_s`, or never."""
    return 0 if ready_s is not None and ready_s >= PROVEN_S else before + 1


def pause_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 1 (a proven instance), 2, 4, 8, 16, then 600."""
    if failures >= OPENS_AFTER:
        return OPEN_S
    return exponential_s(failures, FIRST_S) if failures else AFTER_CRASH_S


def _explain_open_circuit(model: str, count: int) -> str:
    return (
        f"{model} failed {count} times in a row and is left alone for {OPEN_S / 60:.0f} minutes; "
        f"`yard start {model}` or an edit of the model tries again at once."
    )


class BackoffReset:
    """Ends the back-off of failures on one node: the failure was one of an earlier spec or start.

    An edit of the model resets the pause and keeps the error. A deleted model and a later start, on any
    node, delete the record.
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
        """Scan now, and on every change: a failure may be recorded after the edit that supersedes it."""
        self._models.listen(lambda _key, _spec: self._scan())
        self._instances.listen(lambda _key, _instance: self._scan())
        self._scan()

    def _scan(self) -> None:
        instances = self._instances.values
        for key, instance in instances.items():
            if instance.node != self._node or instance.state is not InstanceState.FAILED:
                continue
            is_orphaned = model_key(instance.model) not in self._models.revisions
            if is_orphaned or is_superseded(instance, instances.values()):
                self._tasks.spawn(self._delete(key), "delete a failure")
            elif is_outdated(instance, self._models.revisions):
                self._tasks.spawn(self._reset(key, instance), "reset a back-off")

    async def _delete(self, key: str) -> None:
        try:
            await self._store.delete(key, last=self._instances.revisions.get(key))
        except YardError as error:
            log.info("failure_not_deleted", instance=key, error=error.message)

    async def _reset(self, key: str, instance: Instance) -> None:
        reset = msgspec.structs.replace(instance, failures=0, retry_at=None, circuit_open=False)
        try:
            await self._store.put(key, reset, last=self._instances.revisions.get(key))
        except YardError as error:
            log.info("backoff_not_reset", instance=key, error=error.message)
        else:
            log.info("backoff_reset", instance=key, model=instance.model)


def is_outdated(instance: Instance, revisions: Mapping[str, int]) -> bool:
    """Whether it failed, has a back-off, and its model was edited since it started."""
    has_backoff = instance.state is InstanceState.FAILED and instance.retry_at is not None
    current = revisions.get(model_key(instance.model))
    return has_backoff and current is not None and current != instance.revision


def is_superseded(instance: Instance, instances: Iterable[Instance]) -> bool:
    """Whether it failed, and another instance of its model was started after that."""
    return instance.state is InstanceState.FAILED and any(
        other.model == instance.model and other.started_at > instance.changed_at for other in instances
    )
