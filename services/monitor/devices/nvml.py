"""NVIDIA cards, by NVML. Any call may be unsupported on any card, so each sensor is asked by itself."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from modelyard import logging
from schemas.devices import Device, DeviceKind, DeviceProcess

log = logging.get(__name__)


@dataclass(frozen=True)
class _Card:
    """What does not change while the driver runs."""

    handle: Any
    device: str
    name: str


class NvmlAdapter:
    """Every card the driver shows. Without a driver there are none, which is said once."""

    name = "nvml"

    def __init__(self, node: str, nvml: Any = pynvml) -> None:
        self._node = node
        self._nvml = nvml
        self._cards: list[_Card] | None = None
        self._silent: set[str] = set()
        """Cards that cannot be sampled now."""

    def sample(self, now: float) -> list[Device]:
        """Every card that tells its memory; without that it is of no use to anybody."""
        if self._cards is None:
            self._cards = self._open()
        devices = [self._device(card, now) for card in self._cards]
        return [device for device in devices if device is not None]

    def _open(self) -> list[_Card]:
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            log.info("no_nvidia_driver", reason=str(error))
            return []
        cards = [self._card(index) for index in range(count)]
        return [card for card in cards if card is not None]

    def _card(self, index: int) -> _Card | None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError as error:
            log.warning("card_not_usable", index=index, reason=str(error))
            return None
        uuid = self._ask(self._nvml.nvmlDeviceGetUUID, handle)
        name = self._ask(self._nvml.nvmlDeviceGetName, handle)
        return _Card(handle, as_token(uuid) if uuid else f"gpu{index}", name or "NVIDIA GPU")

    def _device(self, card: _Card, now: float) -> Device | None:
        memory = self._memory(card)
        if memory is None:
            return None
        utilization = self._ask(self._nvml.nvmlDeviceGetUtilizationRates, card.handle)
        power_mw = self._ask(self._nvml.nvmlDeviceGetPowerUsage, card.handle)
        return Device(
            node=self._node,
            device=card.device,
            kind=DeviceKind.GPU,
            name=card.name,
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.used,
            memory_free_bytes=memory.free,
            sampled_at=now,
            utilization_pct=None if utilization is None else float(utilization.gpu),
            temperature_c=self._temperature(card),
            power_w=None if power_mw is None else power_mw / 1000,
            processes=self._processes(card),
        )

    def _memory(self, card: _Card) -> Any | None:
        """Version 2 counts what the driver keeps for itself apart from what is used; old drivers lack it."""
        ask = self._nvml.nvmlDeviceGetMemoryInfo
        memory = self._ask(ask, card.handle, self._nvml.nvmlMemory_v2)
        if memory is None:
            memory = self._ask(ask, card.handle)
        if memory is None and card.device not in self._silent:
            log.warning("card_does_not_answer", device=card.device)
            self._silent.add(card.device)
        elif memory is not None:
            self._silent.discard(card.device)
        return memory

    def _temperature(self, card: _Card) -> float | None:
        degrees = self._ask(self._nvml.nvmlDeviceGetTemperature, card.handle, self._nvml.NVML_TEMPERATURE_GPU)
        return None if degrees is None else float(degrees)

    def _processes(self, card: _Card) -> tuple[DeviceProcess, ...]:
        found = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, card.handle) or ()
        return tuple(DeviceProcess(pid=one.pid, memory_bytes=one.usedGpuMemory) for one in found)

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any | None:
        try:
            return call(*arguments)
        except self._nvml.NVMLError:
            return None


def as_token(uuid: str) -> str:
    """A card's UUID as it may stand in subjects and keys."""
    return re.sub(r"[^A-Za-z0-9_=-]", "-", uuid)
