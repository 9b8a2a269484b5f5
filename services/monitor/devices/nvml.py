"""NVIDIA cards, by NVML. Any call may be unsupported on any card, so each sensor is asked by itself."""

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.bus import logs
from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter, as_token
from schemas.devices import Device, DeviceKind, DeviceProcess

log = logs.get(__name__)

LOOK_AGAIN_S = 30.0
"""How often it is looked which cards there are, and which parts of cards; those come and go."""
_GRAPHICS_CLOCK, _MEMORY_CLOCK = 0, 2
_SENT, _RECEIVED = 0, 1
_HELD_DOWN_BY = {
    0x2: "application_clocks",
    0x4: "power_cap",
    0x8: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
    0x100: "display_clocks",
}
"""NVML's reasons for clocks below the highest. 0x1 is left out: the card has nothing to do."""
_MIG_ON = 1


@dataclass(frozen=True)
class _Card:
    """What does not change while the driver runs."""

    handle: Any
    device: str
    name: str
    part_of: str | None = None
    partitioned: bool = False


class NvmlAdapter(DeviceAdapter):
    """Every card the driver shows, and with MIG its parts. Without a driver there are none."""

    name = "nvml"

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        """The module `pynvml`; found by `open` where none is given."""
        self._driver = False
        self._cards: list[_Card] = []
        self._looked_at = float("-inf")
        self._silent: set[str] = set()
        """Cards that cannot be sampled now."""

    def open(self, settings: Settings) -> None:
        """Says once that there is no driver."""
        if self._nvml is None and (reason := _missing()):
            log.info("no_nvidia_driver", reason=reason)
            return
        if self._nvml is None:
            # Its tables of constants take megabytes, on machines that have no use for them, too.
            import pynvml

            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            self._driver = True
        except self._nvml.NVMLError as error:
            log.info("no_nvidia_driver", reason=str(error))

    def close(self) -> None:
        if self._driver:
            self._ask(self._nvml.nvmlShutdown)

    def sample(self) -> Sequence[Device]:
        """Every card that tells its memory; without that it is of no use to anybody."""
        if not self._driver:
            return []
        if time.monotonic() - self._looked_at > LOOK_AGAIN_S:
            self._looked_at = time.monotonic()
            self._cards = list(self._found())
        devices = [self._device(card) for card in self._cards]
        return [device for device in devices if device is not None]

    def _found(self) -> Iterator[_Card]:
        count = self._ask(self._nvml.nvmlDeviceGetCount)
        if count is None:
            # The driver was loaded anew under us; whoever holds the old one gets no answer for ever.
            self._ask(self._nvml.nvmlShutdown)
            self._ask(self._nvml.nvmlInit)
            count = self._ask(self._nvml.nvmlDeviceGetCount)
        for index in range(count or 0):
            handle = self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                self._complain(f"gpu{index}", "card_not_usable")
                continue
            mode = self._ask(self._nvml.nvmlDeviceGetMigMode, handle)
            whole = self._card(handle, f"gpu{index}", partitioned=bool(mode and mode[0] == _MIG_ON))
            yield whole
            if whole.partitioned:
                yield from self._parts(whole)

    def _card(
        self, handle: Any, else_named: str, part_of: str | None = None, *, partitioned: bool = False
    ) -> _Card:
        uuid = self._ask(self._nvml.nvmlDeviceGetUUID, handle)
        name = self._ask(self._nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
        return _Card(handle, as_token(uuid) if uuid else else_named, name, part_of, partitioned)

    def _parts(self, whole: _Card) -> Iterator[_Card]:
        """MIG's, which have memory of their own and whose other sensors are the whole card's."""
        for index in range(self._ask(self._nvml.nvmlDeviceGetMaxMigDeviceCount, whole.handle) or 0):
            handle = self._ask(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex, whole.handle, index)
            if handle is not None:
                yield self._card(handle, f"{whole.device}-mig{index}", whole.device)

    def _device(self, card: _Card) -> Device | None:
        memory = self._memory(card)
        if memory is None:
            return None
        nvml, handle = self._nvml, card.handle
        utilization = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
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
        """Those of a whole card."""
        nvml = self._nvml
        return {
            "temperature_c": self._number(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            "power_w": self._number(nvml.nvmlDeviceGetPowerUsage, handle, factor=1e-3),
            "power_limit_w": self._number(nvml.nvmlDeviceGetEnforcedPowerLimit, handle, factor=1e-3),
            "fan_pct": self._number(nvml.nvmlDeviceGetFanSpeed, handle),
            "clock_mhz": self._number(nvml.nvmlDeviceGetClockInfo, handle, _GRAPHICS_CLOCK),
            "memory_clock_mhz": self._number(nvml.nvmlDeviceGetClockInfo, handle, _MEMORY_CLOCK),
            "pcie_generation": self._ask(nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
            "pcie_width": self._ask(nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
            "pcie_receive_bytes_s": self._number(
                nvml.nvmlDeviceGetPcieThroughput, handle, _RECEIVED, factor=1000
            ),
            "pcie_transmit_bytes_s": self._number(
                nvml.nvmlDeviceGetPcieThroughput, handle, _SENT, factor=1000
            ),
            "throttled_by": held_down_by(self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)),
        }

    def _memory(self, card: _Card) -> Any | None:
        """Version 2 counts what the driver keeps for itself apart from what is used; old drivers lack it."""
        ask = self._nvml.nvmlDeviceGetMemoryInfo
        memory = self._ask(ask, card.handle, self._nvml.nvmlMemory_v2)
        if memory is None:
            memory = self._ask(ask, card.handle)
        if memory is None:
            self._complain(card.device, "card_does_not_answer")
        else:
            self._silent.discard(card.device)
        return memory

    def _complain(self, device: str, event: str) -> None:
        if device not in self._silent:
            log.warning(event, device=device)
            self._silent.add(device)

    def _processes(self, card: _Card) -> tuple[DeviceProcess, ...]:
        """Those that compute and those that draw: engines on Vulkan are among the latter."""
        nvml = self._nvml
        taken: dict[int, int | None] = {}
        for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
            for one in self._ask(ask, card.handle) or ():
                taken[one.pid] = max(filter(None, (taken.get(one.pid), one.usedGpuMemory)), default=None)
        return tuple(DeviceProcess(pid=pid, memory_bytes=size) for pid, size in taken.items())

    def _number(self, call: Callable[..., Any], *arguments: Any, factor: float = 1.0) -> float | None:
        value = self._ask(call, *arguments)
        return None if value is None else float(value * factor)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any | None:
        try:
            return call(*arguments)
        except self._nvml.NVMLError:
            return None


def _missing() -> str | None:
    """Why there is no driver, as far as its library can tell; only Linux has it in one place."""
    if sys.platform != "linux":
        return None
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        return str(error)
    return None


def held_down_by(reasons: int | None) -> tuple[str, ...]:
    """Names of the bits that NVML gives."""
    return tuple(name for bit, name in _HELD_DOWN_BY.items() if (reasons or 0) & bit)
