"""What the hardware of a node is doing."""

from enum import StrEnum

from schemas.record import Record


class DeviceKind(StrEnum):
    """What sort of memory and compute it is."""

    CPU = "cpu"
    GPU = "gpu"


class DeviceProcess(Record):
    """A process that uses the device."""

    pid: int
    memory_bytes: int | None = None


class Device(Record):
    """One sample of one device. A sensor that does not answer is None."""

    node: str
    device: str
    """Unique on the node and stable over restarts: `cpu`, or the GPU's UUID."""
    kind: DeviceKind
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    memory_free_bytes: int
    sampled_at: float
    utilization_pct: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    processes: tuple[DeviceProcess, ...] = ()
