"""The memory of this node's devices: what models may use, what is reserved, and what instances used."""

from collections import Counter
from collections.abc import Iterable

import psutil

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.files.memory import RECENT
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.devices import Device
from schemas.errors import Conflict, YardError
from schemas.instances import Instance, InstanceState, Reserved
from schemas.placement import MeasuredMemory, MeasuredUse, NodeDevice
from schemas.profiles import CPU
from services.supervisor.node.options import memory_key

log = logs.get(__name__)

_GIB = 1024**3
CPU_SPARED_SHARE = 0.1
CPU_SPARED_MAX_BYTES = 4 * _GIB
"""Main memory that is left to the system: a tenth, at most this."""
GPU_SPARED_BYTES = 256 * 1024**2
"""What drivers and desktops need now and then."""


class Reservations:
    """What each instance may use, from before its process starts until after it has exited.

    A start that does not fit is refused here, even if it was planned.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[Reserved, ...]] = {}

    def total(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for held in self._held.values():
            for reserved in held:
                total[reserved.device] += reserved.predicted_bytes
        return total

    def reserve(self, instance: str, requested: Iterable[Reserved], devices: Iterable[NodeDevice]) -> None:
        """Reserve for an instance; Conflict with a sentence if a device has not enough left."""
        own, total = _on_this_node(requested), self.total()
        free = {device.device: device.memory_bytes - total[device.device] for device in devices}
        for need in own:
            if need.device not in free:
                raise Conflict(f"This node has no device {need.device}.")
            if need.predicted_bytes > max(free[need.device], 0):
                raise Conflict(
                    f"{need.device} has {max(free[need.device], 0)} bytes left for models, "
                    f"not the {need.predicted_bytes} that are needed."
                )
        self._held[instance] = own

    def adopt(self, instance: str, held: Iterable[Reserved]) -> None:
        """Reserve for an instance that runs already, without a check."""
        self._held[instance] = _on_this_node(held)

    def release(self, instance: str) -> None:
        self._held.pop(instance, None)


def _on_this_node(reserved: Iterable[Reserved]) -> tuple[Reserved, ...]:
    """Without the memory of workers: they have reservations of their own, on their nodes."""
    return tuple(entry for entry in reserved if entry.node is None)


class NodeDevices:
    """The devices that the monitor measures here; main memory also without it."""

    def __init__(self, settings: Settings, samples: BucketCache[Device], reservations: Reservations) -> None:
        self._settings = settings
        self._samples = samples
        self._reservations = reservations

    def now(self) -> tuple[NodeDevice, ...]:
        """Every device with what all instances together may use."""
        memory = psutil.virtual_memory()
        own = (sample for sample in self._samples.values.values() if sample.node == self._settings.node)
        gpus = sorted(filter(_takes_models, own), key=lambda sample: sample.device)
        main = self._limited(CPU, memory.total, memory.total - memory.available)
        return (
            NodeDevice(device=CPU, name="main memory", memory_bytes=main, simulated=False),
            *(
                NodeDevice(
                    device=gpu.device,
                    name=gpu.name,
                    memory_bytes=self._limited(gpu.device, gpu.memory_total_bytes, gpu.memory_used_bytes),
                    simulated=gpu.simulated,
                )
                for gpu in gpus
            ),
        )

    def _limited(self, device: str, total: int, used: int) -> int:
        if (limit := self._settings.memory_limits.get(device)) is not None:
            return min(total, limit)
        return usable_bytes(device, total, used, self._reservations.total()[device])


def _takes_models(sample: Device) -> bool:
    """Main memory is sampled here; a partitioned card takes no model as a whole, nor one without memory."""
    return sample.device != CPU and not sample.partitioned and sample.memory_total_bytes > 0


def usable_bytes(device: str, total: int, used: int, reserved: int) -> int:
    """What models may use: all but a reserve and what other programs use."""
    spared = min(int(total * CPU_SPARED_SHARE), CPU_SPARED_MAX_BYTES) if device == CPU else GPU_SPARED_BYTES
    return max(total - spared - max(used - reserved, 0), 0)


class MemoryMeasurements:
    """Stores the last measurement of every instance of this node when it leaves READY."""

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
        self._measured = measured
        self._store = BucketStore(bus, buckets.MEMORY)
        self._stored: set[str] = set()
        instances.listen(self._on_instance)

    def _on_instance(self, key: str, instance: Instance | None) -> None:
        if instance is None:
            self._stored.discard(key)
        elif self._is_complete(instance) and key not in self._stored:
            self._stored.add(key)
            self._tasks.spawn(self._record(instance), "store memory")

    def _is_complete(self, instance: Instance) -> bool:
        """Whether it was ready and is not any more: it used the most it will."""
        left = instance.state not in (InstanceState.READY, InstanceState.FAILED)
        return instance.node == self._node and instance.ever_ready and left and bool(instance.fingerprint)

    async def _record(self, instance: Instance) -> None:
        key = memory_key(self._node, instance.fingerprint, instance.profile)
        before = self._measured.values.get(key, MeasuredMemory())
        uses = tuple(
            MeasuredUse(
                device=reserved.device,
                used_bytes=reserved.measured_bytes,
                predicted_bytes=reserved.predicted_bytes,
            )
            for reserved in instance.reserved
            if reserved.measured_bytes is not None
        )
        devices = max(len(instance.reserved), 1)
        recent = (*before.uses, *uses)[-RECENT * devices :]
        try:
            await self._store.put(key, MeasuredMemory(uses=recent, load_s=instance.load_s))
        except YardError as error:
            log.warning("memory_not_stored", model=instance.model, error=error.message)
