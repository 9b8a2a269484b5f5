"""The machine itself: processor, main memory, swap, disk and network, by psutil."""

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
from services.monitor.devices.files import read_number, read_text

_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
"""Where Linux keeps a processor's temperature, best first."""
T = TypeVar("T")
_SLOW_S = 5.0
"""Swap and the size of a disk change slowly."""


class HostAdapter(DeviceAdapter):
    """One device, `cpu`."""

    name = "host"

    def __init__(self, root: Path = Path("/")) -> None:
        self._model = cpu_model(root / "proc/cpuinfo")
        self._sensors = temperature_files(root)
        self._home = Path("/")
        self._measuring = False
        self._rates = Rates()
        self._slow: tuple[float, dict[str, int]] | None = None

    def open(self, settings: Settings) -> None:
        self._home = settings.home

    def sample(self) -> Device:
        """The processor and the main memory, and what else the machine has."""
        memory = psutil.virtual_memory()
        return Device(
            device="cpu",
            kind=DeviceKind.CPU,
            name=self._model,
            memory_total_bytes=memory.total,
            # What "available" leaves out of "free" (caches) is given back on demand.
            memory_used_bytes=memory.total - memory.available,
            memory_free_bytes=memory.available,
            utilization_pct=self._utilization(),
            temperature_c=hottest(self._sensors),
            host=self._host(time.monotonic()),
        )

    def _utilization(self) -> float | None:
        # psutil measures since the last call from the same thread; the first one has nothing to go by.
        percent = psutil.cpu_percent(interval=None)
        known, self._measuring = self._measuring, True
        return percent if known else None

    def _host(self, now: float) -> Host:
        if self._slow is None or now - self._slow[0] >= _SLOW_S:
            self._slow = (now, _slow_sizes(self._home))
        told = {**self._slow[1], **self._rates.at(now, _counters())}
        return Host(**told, load1=_told(lambda: os.getloadavg()[0]), cores=os.cpu_count())  # type: ignore[arg-type]  # named so by us


class Rates:
    """How fast counters grow; one that starts anew, or is not there, has no rate."""

    def __init__(self) -> None:
        self._before: tuple[float, dict[str, int]] | None = None

    def at(self, now: float, counters: dict[str, int]) -> dict[str, float]:
        """Of every counter that was there before, its growth a second."""
        before, self._before = self._before, (now, counters)
        if before is None or now <= before[0]:
            return {}
        grown = {name: count - before[1][name] for name, count in counters.items() if name in before[1]}
        return {name: count / (now - before[0]) for name, count in grown.items() if count >= 0}


def _counters() -> dict[str, int]:
    found: dict[str, int] = {}
    if disk := _told(lambda: psutil.disk_io_counters(perdisk=False)):
        found |= {"disk_read_bytes_s": disk.read_bytes, "disk_write_bytes_s": disk.write_bytes}
    if cards := _told(lambda: psutil.net_io_counters(pernic=True)):
        real = [card for name, card in cards.items() if not name.startswith("lo")]
        found["network_receive_bytes_s"] = sum(card.bytes_recv for card in real)
        found["network_transmit_bytes_s"] = sum(card.bytes_sent for card in real)
    return found


def _slow_sizes(home: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    if swap := _told(psutil.swap_memory):
        found |= {"swap_total_bytes": swap.total, "swap_used_bytes": swap.used}
    if disk := _told(lambda: psutil.disk_usage(str(home))):
        found |= {
            "disk_total_bytes": disk.total,
            "disk_used_bytes": disk.used,
            "disk_free_bytes": disk.free,
        }
    return found


def _told(ask: Callable[[], T]) -> T | None:
    """What a system tells; not every one tells everything."""
    try:
        return ask()
    except (OSError, RuntimeError, AttributeError, ValueError, NotImplementedError):
        return None


def cpu_model(cpuinfo: Path) -> str:
    """What the processor calls itself, else its architecture."""
    for line in (read_text(cpuinfo) or "").splitlines():
        label, _, value = line.partition(":")
        if label.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "CPU"


def temperature_files(root: Path) -> list[Path]:
    """The sensors of the first chip that measures a processor; found once, since looking takes long."""
    chips = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    named = {read_text(chip / "name"): chip for chip in reversed(chips)}
    for name in _CHIPS:
        if name in named and (files := sorted(named[name].glob("temp*_input"))):
            return files
    return []


def hottest(files: list[Path]) -> float | None:
    """The highest temperature that the sensors tell."""
    return max((degrees for file in files if (degrees := read_number(file, 1e-3)) is not None), default=None)
