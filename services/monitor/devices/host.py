"""The host: processor, main memory, swap, disk and network, by psutil."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter
from schemas.devices import Device, DeviceKind, Host
from services.monitor.devices.drm_cards import read_field, read_float, read_text

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
"""Linux' names of the sensors of a processor, best first."""
T = TypeVar("T")
_SIZES_S = 5.0
"""How often the sizes of swap and disk are read."""


class HostAdapter(DeviceAdapter):
    """One device, `cpu`."""

    name = "host"

    def __init__(self, root: Path = Path("/")) -> None:
        self._model = cpu_model(root / "proc/cpuinfo")
        self._sensors = temperature_files(root)
        self._home = Path("/")
        self._measuring = False
        self._rates = CounterRates()
        self._sizes: tuple[float, dict[str, int]] | None = None

    def open(self, settings: Settings) -> None:
        self._home = settings.home

    def sample(self) -> Device:
        memory = psutil.virtual_memory()
        return Device(
            device="cpu",
            kind=DeviceKind.CPU,
            name=self._model,
            memory_total_bytes=memory.total,
            # Caches are not "free", but "available": the system frees them on demand.
            memory_used_bytes=memory.total - memory.available,
            memory_free_bytes=memory.available,
            utilization_pct=self._utilization(),
            temperature_c=hottest(self._sensors),
            host=self._host(time.monotonic()),
        )

    def _utilization(self) -> float | None:
        # psutil measures since the last call of the same thread; the first one has no reference.
        percent = psutil.cpu_percent(interval=None)
        measured, self._measuring = self._measuring, True
        return percent if measured else None

    def _host(self, now: float) -> Host:
        if self._sizes is None or now - self._sizes[0] >= _SIZES_S:
            self._sizes = (now, _read_sizes(self._home))
        values = {**self._sizes[1], **self._rates.at(now, _counters())}
        return Host(**values, load1=_supported(lambda: os.getloadavg()[0]), cores=os.cpu_count())  # type: ignore[arg-type]  # names of its fields


class CounterRates:
    """Rates of counters; one that is new or was reset has none."""

    def __init__(self) -> None:
        self._before: tuple[float, dict[str, int]] | None = None

    def at(self, now: float, counters: dict[str, int]) -> dict[str, float]:
        before, self._before = self._before, (now, counters)
        if before is None or now <= before[0]:
            return {}
        increases = {name: count - before[1][name] for name, count in counters.items() if name in before[1]}
        return {name: count / (now - before[0]) for name, count in increases.items() if count >= 0}


def _counters() -> dict[str, int]:
    counters: dict[str, int] = {}
    if disk := _supported(lambda: psutil.disk_io_counters(perdisk=False)):
        counters |= {"disk_read_bytes_s": disk.read_bytes, "disk_write_bytes_s": disk.write_bytes}
    if interfaces := _supported(lambda: psutil.net_io_counters(pernic=True)):
        external = [interface for name, interface in interfaces.items() if not name.startswith("lo")]
        counters["network_receive_bytes_s"] = sum(interface.bytes_recv for interface in external)
        counters["network_transmit_bytes_s"] = sum(interface.bytes_sent for interface in external)
    return counters


def _read_sizes(home: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    if swap := _supported(psutil.swap_memory):
        sizes |= {"swap_total_bytes": swap.total, "swap_used_bytes": swap.used}
    if disk := _supported(lambda: psutil.disk_usage(str(home))):
        sizes |= {"disk_total_bytes": disk.total, "disk_used_bytes": disk.used, "disk_free_bytes": disk.free}
    return sizes


def _supported(call: Callable[[], T]) -> T | None:
    """The result, or None where the platform does not support it."""
    try:
        return call()
    except (OSError, RuntimeError, AttributeError, ValueError, NotImplementedError):
        return None


def cpu_model(cpuinfo: Path) -> str:
    return read_field(cpuinfo, "model name", ":") or platform.processor() or platform.machine() or "CPU"


def temperature_files(root: Path) -> list[Path]:
    """The temperature files of the first sensor of a processor; the scan is slow, so it is done once."""
    chips = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    named = {read_text(chip / "name"): chip for chip in reversed(chips)}
    for name in _CPU_SENSORS:
        if name in named and (files := sorted(named[name].glob("temp*_input"))):
            return files
    return []


def hottest(files: list[Path]) -> float | None:
    return max((degrees for file in files if (degrees := read_float(file, 1e-3)) is not None), default=None)
