"""The state of a node's hardware."""

from enum import StrEnum

from schemas.base import Record


class DeviceKind(StrEnum):
    """The kind of a device."""

    CPU = "cpu"
    GPU = "gpu"


class DeviceProcess(Record):
    """A process that uses the device."""

    pid: int
    memory_bytes: int | None = None
    instance: str | None = None
    """The instance of ours whose engine it is, or whose engine started it."""


class Host(Record):
    """Host metrics besides processor and main memory. Rates are averages of the last second."""

    swap_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    """Size of the file system that contains YARD_HOME."""
    disk_used_bytes: int | None = None
    disk_free_bytes: int | None = None
    """Free for users other than root, so it may be less than total minus used."""
    disk_read_bytes_s: float | None = None
    disk_write_bytes_s: float | None = None
    """Sum of all disks."""
    network_receive_bytes_s: float | None = None
    network_transmit_bytes_s: float | None = None
    """Sum of all interfaces except loopback."""
    load1: float | None = None
    """Runnable processes, averaged over a minute."""
    cores: int | None = None


class Device(Record):
    """One sample of one device. A sensor that does not answer is None."""

    device: str
    """Unique on the node and stable over restarts: `cpu`, or the GPU's UUID."""
    kind: DeviceKind
    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    memory_free_bytes: int
    node: str = ""
    """Filled in by the monitor, as `sampled_at` is."""
    sampled_at: float = 0.0
    utilization_pct: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    fan_pct: float | None = None
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    pcie_generation: int | None = None
    """Of the present link state; idle cards lower it."""
    pcie_width: int | None = None
    pcie_receive_bytes_s: float | None = None
    pcie_transmit_bytes_s: float | None = None
    throttled_by: tuple[str, ...] = ()
    """Why its clocks are held down, as in `power_cap` or `thermal`; an idle card is not throttled."""
    processes: tuple[DeviceProcess, ...] = ()
    part_of: str | None = None
    """The card whose part it is (MIG)."""
    partitioned: bool = False
    """Its parts are devices of their own; nothing can be placed on the whole."""
    host: Host | None = None
    """With the device `cpu`."""
    simulated: bool = False
    """Not measured: read from a simulation file."""


class Adapter(Record):
    """A source of devices on a node: ours, a package's or a plugin file's."""

    node: str
    adapter: str
    devices: tuple[str, ...] = ()
    """Devices of the last sample."""
    problem: str | None = None
    """Why it gives none, or not all."""
    simulated: bool = False
