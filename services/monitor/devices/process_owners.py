"""Attributes processes on devices to the instances whose engines they are or descend from."""

from collections.abc import Iterable, Mapping

import msgspec
import psutil

from schemas.devices import Device
from schemas.instances import LIVE, Instance

_MAX_DEPTH = 16


class ProcessOwners:
    """The instances behind processes, cached while a process is on a device."""

    def __init__(self, node: str, instances: Mapping[str, Instance]) -> None:
        self._node = node
        self._instances = instances
        self._owners: dict[int, str | None] = {}
        self._engines: dict[int, str] = {}

    def attribute(self, devices: Iterable[Device]) -> list[Device]:
        """The devices, with the instance of each process."""
        devices = list(devices)
        if not any(device.processes for device in devices):
            return devices
        self._refresh({process.pid for device in devices for process in device.processes})
        return [self._attribute(device) for device in devices]

    def _refresh(self, pids: set[int]) -> None:
        engines = {
            instance.engine_pid: instance.instance
            for instance in self._instances.values()
            if instance.node == self._node and instance.state in LIVE and instance.engine_pid is not None
        }
        if engines != self._engines:
            self._engines, self._owners = engines, {}
        # Only present processes stay cached: the system may reuse the id of a former one.
        self._owners = {
            pid: self._owners[pid] if pid in self._owners else self._find_owner(pid) for pid in pids
        }

    def _find_owner(self, pid: int) -> str | None:
        for _ in range(_MAX_DEPTH):
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

    def _attribute(self, device: Device) -> Device:
        if not device.processes:
            return device
        processes = tuple(
            msgspec.structs.replace(process, instance=self._owners.get(process.pid) or process.instance)
            for process in device.processes
        )
        return msgspec.structs.replace(device, processes=processes)
