"""The machine itself: processor and main memory, by psutil."""

import platform
from pathlib import Path
from typing import Any

import psutil

from schemas.devices import Device, DeviceKind

_CPUINFO = Path("/proc/cpuinfo")
_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
"""Where Linux keeps a processor's temperature, best first."""


class HostAdapter:
    """One device, `cpu`."""

    name = "host"

    def __init__(self, node: str) -> None:
        self._node = node
        self._model = cpu_model()
        self._measuring = False

    def sample(self, now: float) -> list[Device]:
        """The processor and the main memory."""
        memory = psutil.virtual_memory()
        return [
            Device(
                node=self._node,
                device="cpu",
                kind=DeviceKind.CPU,
                name=self._model,
                memory_total_bytes=memory.total,
                # What "available" leaves out of "free" (caches) is given back on demand.
                memory_used_bytes=memory.total - memory.available,
                memory_free_bytes=memory.available,
                sampled_at=now,
                utilization_pct=self._utilization(),
                temperature_c=hottest(_temperatures()),
            )
        ]

    def _utilization(self) -> float | None:
        # psutil measures since the last call from the same thread; the first one has nothing to go by.
        percent = psutil.cpu_percent(interval=None)
        known, self._measuring = self._measuring, True
        return percent if known else None


def cpu_model(cpuinfo: Path = _CPUINFO) -> str:
    """What the processor calls itself, else its architecture."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "CPU"


def hottest(readings: dict[str, list[Any]]) -> float | None:
    """The highest temperature of the first chip that measures a processor."""
    for chip in _CHIPS:
        if degrees := [entry.current for entry in readings.get(chip, ()) if entry.current is not None]:
            return float(max(degrees))
    return None


def _temperatures() -> dict[str, list[Any]]:
    # psutil has no such function on macOS and Windows, and a driver's file may fail to read.
    try:
        return dict(psutil.sensors_temperatures())
    except (AttributeError, OSError):
        return {}
