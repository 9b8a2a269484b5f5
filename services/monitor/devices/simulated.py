"""Simulated devices from the file YARD_SIMULATED_DEVICES, for demonstrations and tests.

The file is YAML, TOML or JSON with a list `devices`, each with the fields of `schemas.devices.Device`. In
place of a number there may be a list of numbers: one per second, repeated.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter
from schemas.base import Record, check_token
from schemas.devices import Device


class _File(Record):
    devices: list[dict[str, Any]]


class SimulatedAdapter(DeviceAdapter):
    """The devices of the file; it is read again when it changes."""

    name = "simulated"
    simulated = True

    def __init__(self) -> None:
        self._path: Path | None = None
        self._version: tuple[int, int] | None = None
        self._devices: list[dict[str, Any]] = []

    def open(self, settings: Settings) -> None:
        self._path = settings.simulated_devices

    def sample(self) -> Sequence[Device]:
        """ValueError or OSError with a sentence if the file cannot be used."""
        if self._path is None:
            return []
        status = self._path.stat()
        if self._version != (version := (status.st_mtime_ns, status.st_size)):
            self._devices = read_devices(self._path)
            self._version = version
        second = int(time.time())
        return [device_at(fields, second) for fields in self._devices]


def read_devices(path: Path) -> list[dict[str, Any]]:
    """The validated devices of a file; ValueError with a sentence."""
    try:
        devices = msgspec.convert(_parser(path)(path.read_bytes()), _File).devices
        samples = [device_at(fields, second) for fields in devices for second in (0, 1)]
    except Exception as error:
        raise ValueError(f"{path} has no valid simulated devices: {error}") from error
    for device in samples:
        check_token(device.device)
    if len({device.device for device in samples}) != len(devices):
        raise ValueError(f"{path} names a device twice; each needs an id of its own.")
    return devices


def device_at(fields: dict[str, Any], second: int) -> Device:
    now = {name: _at(name, value, second) for name, value in fields.items()}
    if unknown := now.keys() - set(Device.__struct_fields__):
        raise ValueError(f"there is no field {', '.join(sorted(unknown))}")
    derived = "memory_free_bytes" not in now and {"memory_total_bytes", "memory_used_bytes"} <= now.keys()
    defaults = {"memory_free_bytes": 0} if derived else {}
    device = msgspec.convert({**now, **defaults, "simulated": True}, Device)
    if not derived:
        return device
    free = max(device.memory_total_bytes - device.memory_used_bytes, 0)
    return msgspec.structs.replace(device, memory_free_bytes=free)


def _at(name: str, value: Any, second: int) -> Any:
    cycles = isinstance(value, list) and name not in ("processes", "throttled_by")
    return value[second % len(value)] if cycles else value


def _parser(path: Path) -> Callable[[bytes], Any]:
    match path.suffix.lower():
        case ".json":
            return msgspec.json.decode
        case ".toml":
            return msgspec.toml.decode
        case ".yaml" | ".yml":
            return msgspec.yaml.decode
    raise ValueError("its name must end in .yaml, .toml or .json")
