"""NVIDIA cards, by NVML. Any call may be unsupported on any card, so each sensor is read separately."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml

from modelyard.bus import logs
from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter, as_token
from schemas.devices import Device, DeviceKind, DeviceProcess

log = logs.get(__name__)

SCAN_S = 30.0
"""How often cards and MIG partitions are enumerated."""
_GRAPHICS_CLOCK, _MEMORY_CLOCK = 0, 2
_SENT, _RECEIVED = 0, 1
_THROTTLE_REASONS = {
    0x2: "application_clocks",
    0x4: "power_cap",
    0x8: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
    0x100: "display_clocks",
}
"""NVML's reasons for clocks below the maximum, without 0x1, which is an idle card."""
_MIG_ON = 1


@dataclass(frozen=True)
class _NvmlCard:
    """The constants of a card or partition."""

    handle: Any
    device: str
    name: str
    part_of: str | None = None
    partitioned: bool = False


class NvmlAdapter(DeviceAdapter):
    """Every card of the driver and its MIG partitions. Without a driver there are none."""

    name = "nvml"

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._driver = False
        self._cards: list[_NvmlCard] = []
        self._scanned_at = float("-inf")
        self._failing: set[str] = set()
        """Cards whose failure is logged."""

    def open(self, settings: Settings) -> None:
        try:
            self._nvml.nvmlInit()
            self._driver = True
        except self._nvml.NVMLError as error:
            log.info("nvidia_driver_missing", reason=str(error))

    def close(self) -> None:
        if self._driver:
            self._call(self._nvml.nvmlShutdown)

    def sample(self) -> Sequence[Device]:
        """Every card that reports its memory; one that does not cannot be used."""
        if not self._driver:
            return []
        if time.monotonic() - self._scanned_at > SCAN_S:
            self._scanned_at = time.monotonic()
            self._cards = list(self._scan())
        devices = [self._device(card) for card in self._cards]
        return [device for device in devices if device is not None]

    def _scan(self) -> Iterator[_NvmlCard]:
        count = self._call(self._nvml.nvmlDeviceGetCount)
        if count is None:
            # After a reload of the driver, the old handle never answers again.
            self._call(self._nvml.nvmlShutdown)
            self._call(self._nvml.nvmlInit)
            count = self._call(self._nvml.nvmlDeviceGetCount)
        for index in range(count or 0):
            handle = self._call(self._nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                self._log_failure(f"gpu{index}", "card_unusable")
                continue
            mode = self._call(self._nvml.nvmlDeviceGetMigMode, handle)
            card = self._card(handle, f"gpu{index}", partitioned=bool(mode and mode[0] == _MIG_ON))
            yield card
            if card.partitioned:
                yield from self._partitions(card)

    def _card(
        self, handle: Any, fallback_id: str, part_of: str | None = None, *, partitioned: bool = False
    ) -> _NvmlCard:
        uuid = self._call(self._nvml.nvmlDeviceGetUUID, handle)
        name = self._call(self._nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
        return _NvmlCard(handle, as_token(uuid) if uuid else fallback_id, name, part_of, partitioned)

    def _partitions(self, card: _NvmlCard) -> Iterator[_NvmlCard]:
        """MIG partitions have memory of their own; their other sensors are those of the card."""
        for index in range(self._call(self._nvml.nvmlDeviceGetMaxMigDeviceCount, card.handle) or 0):
            handle = self._call(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex, card.handle, index)
            if handle is not None:
                yield self._card(handle, f"{card.device}-mig{index}", card.device)

    def _device(self, card: _NvmlCard) -> Device | None:
        memory = self._memory(card)
        if memory is None:
            return None
        nvml, handle = self._nvml, card.handle
        utilization = self._call(nvml.nvmlDeviceGetUtilizationRates, handle)
        return Device(
            device=card.device,
            kind=DeviceKind.GPU,
            name=card.name,
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.used,
            memory_free_bytes=memory.free,
            utilization_pct=None if utilization is None else float(utilization.gpu),
            processes=self._processes(card),
            part_of=card.part_of,
            partitioned=card.partitioned,
            **({} if card.part_of else self._sensors(handle)),
        )

    def _sensors(self, handle: Any) -> dict[str, Any]:
        nvml = self._nvml
        return {
            "temperature_c": self._number(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            "power_w": self._number(nvml.nvmlDeviceGetPowerUsage, handle, factor=1e-3),
            "power_limit_w": self._number(nvml.nvmlDeviceGetEnforcedPowerLimit, handle, factor=1e-3),
            "fan_pct": self._number(nvml.nvmlDeviceGetFanSpeed, handle),
            "clock_mhz": self._number(nvml.nvmlDeviceGetClockInfo, handle, _GRAPHICS_CLOCK),
            "memory_clock_mhz": self._number(nvml.nvmlDeviceGetClockInfo, handle, _MEMORY_CLOCK),
            "pcie_generation": self._call(nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
            "pcie_width": self._call(nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
            "pcie_receive_bytes_s": self._number(
                nvml.nvmlDeviceGetPcieThroughput, handle, _RECEIVED, factor=1000
            ),
            "pcie_transmit_bytes_s": self._number(
                nvml.nvmlDeviceGetPcieThroughput, handle, _SENT, factor=1000
            ),
            "throttled_by": throttle_reasons(
                self._call(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
            ),
        }

    def _memory(self, card: _NvmlCard) -> Any | None:
        """Version 2 does not count memory reserved by the driver as used; old drivers lack it."""
        call = self._nvml.nvmlDeviceGetMemoryInfo
        memory = self._call(call, card.handle, self._nvml.nvmlMemory_v2)
        if memory is None:
            memory = self._call(call, card.handle)
        if memory is None:
            self._log_failure(card.device, "card_unresponsive")
        else:
            self._failing.discard(card.device)
        return memory

    def _log_failure(self, device: str, event: str) -> None:
        if device not in self._failing:
            log.warning(event, device=device)
            self._failing.add(device)

    def _processes(self, card: _NvmlCard) -> tuple[DeviceProcess, ...]:
        """Compute and graphics processes: engines on Vulkan are graphics."""
        nvml = self._nvml
        memory: dict[int, int | None] = {}
        for call in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
            for process in self._call(call, card.handle) or ():
                sizes = (memory.get(process.pid), process.usedGpuMemory)
                memory[process.pid] = max(filter(None, sizes), default=None)
        return tuple(DeviceProcess(pid=pid, memory_bytes=size) for pid, size in memory.items())

    def _number(self, call: Callable[..., Any], *arguments: Any, factor: float = 1.0) -> float | None:
        value = self._call(call, *arguments)
        return None if value is None else float(value * factor)

    def _call(self, call: Callable[..., Any], *arguments: Any) -> Any | None:
        try:
            return call(*arguments)
        except self._nvml.NVMLError:
            return None


def throttle_reasons(reasons: int | None) -> tuple[str, ...]:
    return tuple(name for bit, name in _THROTTLE_REASONS.items() if (reasons or 0) & bit)
