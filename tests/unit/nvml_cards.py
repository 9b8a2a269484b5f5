"""Recorded results of NVML for real cards: by function, the value or the error."""

from types import SimpleNamespace
from typing import Any

GIB, MIB = 2**30, 2**20
Results = dict[str, Any]


class NVMLError(Exception):
    """The base class of pynvml's errors."""


class NotSupported(NVMLError):
    pass


class GpuIsLost(NVMLError):
    pass


def memory(**bytes_: int) -> SimpleNamespace:
    return SimpleNamespace(**bytes_)


def process(pid: int, used_bytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used_bytes)


def rtx_4090(uuid: str = "GPU-1", **changes: Any) -> Results:
    """A desktop card under load, with graphics processes and a fan."""
    return {
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetName": "NVIDIA GeForce RTX 4090",
        "memory_v2": memory(total=24564 * MIB, reserved=387 * MIB, free=20089 * MIB, used=4088 * MIB),
        "nvmlDeviceGetMemoryInfo": memory(total=24564 * MIB, free=20089 * MIB, used=4475 * MIB),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=12),
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 125_500,
        "nvmlDeviceGetEnforcedPowerLimit": 450_000,
        "nvmlDeviceGetFanSpeed": 31,
        ("nvmlDeviceGetClockInfo", 0): 2520,
        ("nvmlDeviceGetClockInfo", 2): 10501,
        "nvmlDeviceGetCurrPcieLinkGeneration": 4,
        "nvmlDeviceGetCurrPcieLinkWidth": 16,
        ("nvmlDeviceGetPcieThroughput", 0): 4300,
        ("nvmlDeviceGetPcieThroughput", 1): 15850,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4,
        "nvmlDeviceGetMigMode": NotSupported("Not Supported"),
        "nvmlDeviceGetComputeRunningProcesses": [process(4711, 3 * GIB)],
        "nvmlDeviceGetGraphicsRunningProcesses": [process(1400, 210 * MIB)],
        **changes,
    }  # type: ignore[dict-item]  # some results depend on an argument


def h200(uuid: str = "GPU-5d3c6a40-8b0e-7f6f-2f7a-6f1f5a2f0b11", **changes: Any) -> Results:
    """An idle data centre card without a fan."""
    return rtx_4090(uuid) | {
        "nvmlDeviceGetName": "NVIDIA H200",
        "memory_v2": memory(total=143771 * MIB, reserved=613 * MIB, free=143155 * MIB, used=3 * MIB),
        "nvmlDeviceGetMemoryInfo": memory(total=143771 * MIB, free=143155 * MIB, used=616 * MIB),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
        "nvmlDeviceGetTemperature": 33,
        "nvmlDeviceGetPowerUsage": 76_214,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetFanSpeed": NotSupported("Not Supported"),
        ("nvmlDeviceGetClockInfo", 0): 345,
        ("nvmlDeviceGetClockInfo", 2): 3201,
        "nvmlDeviceGetCurrPcieLinkGeneration": 5,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1,
        "nvmlDeviceGetMigMode": [0, 0],
        "nvmlDeviceGetComputeRunningProcesses": [],
        "nvmlDeviceGetGraphicsRunningProcesses": [],
        **changes,
    }


def mig_partition(uuid: str = "MIG-1c2d3e4f-0a1b-5c2d-8e3f-4a5b6c7d8e9f", **changes: Any) -> Results:
    """A MIG partition of an A100, which reports memory and processes only."""
    unsupported = dict.fromkeys(rtx_4090(), NotSupported("Not Supported"))
    return unsupported | {
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetName": "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "memory_v2": memory(total=40192 * MIB, reserved=0, free=39000 * MIB, used=1192 * MIB),
        "nvmlDeviceGetComputeRunningProcesses": [process(990, 1100 * MIB)],
        **changes,
    }


def a100_with_mig(*partitions: Results, **changes: Any) -> Results:
    """An A100 with MIG enabled."""
    return h200("GPU-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9") | {
        "nvmlDeviceGetName": "NVIDIA A100-SXM4-80GB",
        "memory_v2": memory(total=81920 * MIB, reserved=600 * MIB, free=80000 * MIB, used=1320 * MIB),
        "nvmlDeviceGetUtilizationRates": NotSupported("Not Supported"),
        "nvmlDeviceGetMigMode": [1, 1],
        "nvmlDeviceGetMaxMigDeviceCount": 7,
        "partitions": list(partitions),
        **changes,
    }


class RecordedNvml:
    """Replays the results in place of the module."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 0x2000028  # noqa: N815 - pynvml's own name

    def __init__(self, cards: list[Results], init: Exception | None = None) -> None:
        self.cards = cards
        self.calls: list[str] = []
        self._init = init

    def __getattr__(self, function: str) -> Any:
        def call(handle: Results, *arguments: Any) -> Any:
            if function == "nvmlDeviceGetMemoryInfo" and self.nvmlMemory_v2 in arguments:
                return result(handle, "memory_v2")
            if arguments and (function, arguments[0]) in handle:
                return result(handle, (function, arguments[0]))
            return result(handle, function)

        return call

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's own name
        self.calls.append("nvmlInit")
        if self._init:
            raise self._init

    def nvmlShutdown(self) -> None:  # noqa: N802 - pynvml's own name
        self.calls.append("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - pynvml's own name
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Results:  # noqa: N802 - pynvml's own name
        result(self.cards[index], "handle")
        return self.cards[index]

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Results, index: int) -> Results:  # noqa: N802
        if index >= len(card["partitions"]):
            raise NVMLError("Not Found")
        partition: Results = card["partitions"][index]
        return partition


def result(card: Results, function: Any) -> Any:
    value = card.get(function)
    if isinstance(value, Exception):
        raise value
    return value
