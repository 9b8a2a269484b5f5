"""Which process on a device is the engine of an instance, or was started by one."""

from collections.abc import Iterable, Mapping

import msgspec
import psutil

from schemas.devices import Device
from schemas.instances import LIVE, Instance

_DEEPEST = 16


class Tenants:
    """Names the instances behind processes. A process is looked up once, as long as it shows."""

    def __init__(self, node: str, instances: Mapping[str, Instance]) -> None:
        self._node = node
        self._instances = instances
        self._known: dict[int, str | None] = {}
        self._engines: dict[int, str] = {}

    def named(self, devices: Iterable[Device]) -> list[Device]:
        """The devices, their processes with the instances that they belong to."""
        devices = list(devices)
        if not any(device.processes for device in devices):
            return devices
        self._refresh({process.pid for device in devices for process in device.processes})
        return [self._named(device) for device in devices]

    def _refresh(self, pids: set[int]) -> None:
        engines = {
            one.engine_pid: one.instance
            for one in self._instances.values()
            if one.node == self._node and one.state in LIVE and one.engine_pid is not None
        }
        if engines != self._engines:
            self._engines, self._known = engines, {}
        # A number that showed no more may come back as another process.
        self._known = {pid: self._known[pid] if pid in self._known else self._find(pid) for pid in pids}

    def _find(self, pid: int) -> str | None:
        """By the process itself, or by whom it descends from."""
        for _ in range(_DEEPEST):
            if pid in self._engines:
                return self._engines[pid]
            try:
                parent = psutil.Process(pid).ppid()
            except psutil.Error:
                return None
            if parent <= 1:
                return None
            pid = parent
        return None

    def _named(self, device: Device) -> Device:
        if not device.processes:
            return device
        processes = tuple(
            msgspec.structs.replace(one, instance=self._known.get(one.pid) or one.instance)
            for one in device.processes
        )
        return msgspec.structs.replace(device, processes=processes)
