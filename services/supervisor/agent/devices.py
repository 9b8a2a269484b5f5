"""The memory of this node that models may take."""

from collections.abc import Mapping
from typing import NamedTuple

import psutil

from modelyard.bus.records import BucketCache
from modelyard.host.settings import Settings
from schemas.devices import Device
from schemas.placing import NodeDevice
from schemas.profiles import CPU

_GIB = 1024**3
CPU_SPARED_SHARE = 0.1
CPU_SPARED_MOST_BYTES = 4 * _GIB
"""Main memory that is left to the system: a tenth, at most this."""
GPU_SPARED_BYTES = 256 * 1024**2
"""What drivers and desktops take now and then."""


class Devices:
    """What the monitor sees of this node; main memory also without it."""

    def __init__(self, settings: Settings, samples: BucketCache[Device]) -> None:
        self._settings = settings
        self._samples = samples

    def now(self, ours: Mapping[str, int]) -> tuple[NodeDevice, ...]:
        """Every device, with what all instances together may take; `ours` is what they have by now."""
        limits = self._settings.memory_limits
        devices = [_cpu(), *(_gpu(sample) for sample in self._gpus())]
        return tuple(
            NodeDevice(
                device=device,
                name=name,
                memory_bytes=min(total, limits[device])
                if device in limits
                else allowed(device, total, used, ours.get(device, 0)),
                simulated=simulated,
            )
            for device, name, total, used, simulated in devices
        )

    def _gpus(self) -> list[Device]:
        own = (one for one in self._samples.values.values() if one.node == self._settings.node)
        return sorted((one for one in own if _takes_models(one)), key=lambda one: one.device)


def _takes_models(sample: Device) -> bool:
    """Main memory is counted by itself; a card in parts takes none as a whole, nor one without memory."""
    return sample.device != CPU and not sample.partitioned and sample.memory_total_bytes > 0


def allowed(device: str, total: int, used: int, ours: int) -> int:
    """What models may take: all but a reserve and what others use."""
    spared = min(int(total * CPU_SPARED_SHARE), CPU_SPARED_MOST_BYTES) if device == CPU else GPU_SPARED_BYTES
    return max(total - spared - max(used - ours, 0), 0)


class _Seen(NamedTuple):
    device: str
    name: str
    total: int
    used: int
    simulated: bool


def _cpu() -> _Seen:
    memory = psutil.virtual_memory()
    return _Seen(CPU, "main memory", memory.total, memory.total - memory.available, simulated=False)


def _gpu(sample: Device) -> _Seen:
    total, used = sample.memory_total_bytes, sample.memory_used_bytes
    return _Seen(sample.device, sample.name, total, used, sample.simulated)
