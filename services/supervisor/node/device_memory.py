"""The memory of this node's devices: what models may use, what is reserved, and what instances used."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

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
from schemas.placing import MeasuredMemory, MeasuredUse, NodeDevice
from schemas.profiles import CPU
from services.supervisor.node.options import memory_key

log = logs.get(__name__)

_GIB = 1024**3
CPU_SPARED_SHARE = 0.1
CPU_SPARED_MAX_BYTES = 4 * _GIB
"""Main memory that is left to the system: a tenth, at most this."""
GPU_SPARED_BYTES = 256 * 1024**2
"""What drivers and desktops need now and then."""


class _Sample(NamedTuple):
    device: str
    name: str
    total: int
    used: int
    simulated: bool


class NodeDevices:
    """The devices that the monitor measures here; main memory also without it."""

    def __init__(self, settings: Settings, samples: BucketCache[Device]) -> None:
        self._settings = settings
        self._samples = samples

    def now(self, reserved: Mapping[str, int]) -> tuple[NodeDevice, ...]:
        """Every device with what all instances together may use; `reserved` is what they have by now."""
        limits = self._settings.memory_limits
        return tuple(
            NodeDevice(
                device=device,
                name=name,
                memory_bytes=min(total, limits[device])
                if device in limits
                else usable_bytes(device, total, used, reserved.get(device, 0)),
                simulated=simulated,
            )
            for device, name, total, used, simulated in (_cpu(), *map(_gpu, self._gpus()))
        )

    def _gpus(self) -> list[Device]:
        own = (sample for sample in self._samples.values.values() if sample.node == self._settings.node)
        return sorted((sample for sample in own if _takes_models(sample)), key=lambda sample: sample.device)


def _takes_models(sample: Device) -> bool:
    """Main memory is sampled here; a partitioned card takes no model as a whole, nor one without memory."""
    return sample.device != CPU and not sample.partitioned and sample.memory_total_bytes > 0


def usable_bytes(device: str, total: int, used: int, reserved: int) -> int:
    """What models may use: all but a reserve and what other programs use."""
    spared = min(int(total * CPU_SPARED_SHARE), CPU_SPARED_MAX_BYTES) if device == CPU else GPU_SPARED_BYTES
    return max(total - spared - max(used - reserved, 0), 0)


def _cpu() -> _Sample:
    memory = psutil.virtual_memory()
    return _Sample(CPU, "main memory", memory.total, memory.total - memory.available, simulated=False)


def _gpu(sample: Device) -> _Sample:
    total, used = sample.memory_total_bytes, sample.memory_used_bytes
    return _Sample(sample.device, sample.name, total, used, sample.simulated)


class Reservations:
    """What each instance may use, from before its process starts until after it is gone.

    A start that does not fit is refused here, whatever was planned.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[Reserved, ...]] = {}

    def total(self) -> Counter[str]:
        """By device."""
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
        """Reserve for an instance that runs already, whatever is left."""
        self._held[instance] = _on_this_node(held)

    def release(self, instance: str) -> None:
        """The processes of an instance are gone."""
        self._held.pop(instance, None)


def _on_this_node(reserved: Iterable[Reserved]) -> tuple[Reserved, ...]:
    """Without the memory of workers: they have reservations of their own, on their nodes."""
    return tuple(entry for entry in reserved if entry.node is None)


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
