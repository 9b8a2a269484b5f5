"""What instances really took, kept for the next estimate."""

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.gguf.measured import RECENT
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.errors import YardError
from schemas.instances import Instance, InstanceState
from schemas.placing import MeasuredMemory, MeasuredUse
from services.supervisor.agent.options import memory_key

log = logs.get(__name__)


class Measuring:
    """Writes down the last measurement of every instance of this node when it leaves READY."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        settings: Settings,
        instances: BucketCache[Instance],
        measured: BucketCache[MeasuredMemory],
    ) -> None:
        self._tasks = tasks
        self._node = settings.node
        self._instances = instances
        self._measured = measured
        self._store = BucketStore(bus, buckets.MEMORY)
        self._noted: set[str] = set()

    def begin(self) -> None:
        """Listen from now on."""
        self._instances.listen(self._on_instance)

    def _on_instance(self, key: str, instance: Instance | None) -> None:
        if instance is None:
            self._noted.discard(key)
        elif self._is_telling(instance) and key not in self._noted:
            self._noted.add(key)
            self._tasks.spawn(self._note(instance), "note memory")

    def _is_telling(self, instance: Instance) -> bool:
        """Whether it was ready and is not any more: it took the most it will."""
        left = instance.state not in (InstanceState.READY, InstanceState.FAILED)
        return instance.node == self._node and instance.ever_ready and left and bool(instance.fingerprint)

    async def _note(self, instance: Instance) -> None:
        key = memory_key(self._node, instance.fingerprint, instance.profile)
        before = self._measured.values.get(key, MeasuredMemory())
        uses = tuple(
            MeasuredUse(device=one.device, used_bytes=one.measured_bytes, predicted_bytes=one.predicted_bytes)
            for one in instance.reserved
            if one.measured_bytes is not None
        )
        devices = max(len(instance.reserved), 1)
        kept = (*before.uses, *uses)[-RECENT * devices :]
        try:
            await self._store.put(key, MeasuredMemory(uses=kept, load_s=instance.load_s))
        except YardError as error:
            log.warning("memory_not_noted", model=instance.model, error=error.message)
