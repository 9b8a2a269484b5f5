"""The NVML adapter against a recorded stand-in for the `pynvml` module, made from plain data."""

from types import SimpleNamespace
from typing import Any

import pytest

from schemas.devices import Device, DeviceKind, DeviceProcess
from schemas.grammar import check_token
from services.monitor.devices.nvml import NvmlAdapter

GIB = 2**30


class NVMLError(Exception):
    """As in pynvml: the base of all its errors."""


class NotSupported(NVMLError):
    pass


class LibraryNotFound(NVMLError):
    pass


class GpuIsLost(NVMLError):
    pass


class RecordedNvml:
    """Answers as the module does; each card is a dict from function to value, or to what it raises."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 0x2000028  # noqa: N815 - pynvml's own name

    def __init__(self, cards: list[dict[str, Any]], init: Exception | None = None) -> None:
        self.cards = cards
        self.calls: list[str] = []
        self._init = init

    def __getattr__(self, function: str) -> Any:
        def answer(handle: int, *arguments: Any) -> Any:
            if function == "nvmlDeviceGetMemoryInfo" and self.nvmlMemory_v2 in arguments:
                return self._told(handle, "memory_v2")
            return self._told(handle, function)

        return answer

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's own name
        self.calls.append("nvmlInit")
        if self._init:
            raise self._init

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - pynvml's own name
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - pynvml's own name
        self._told(index, "handle")
        return index

    def _told(self, handle: int, function: str) -> Any:
        value = self.cards[handle].get(function)
        if isinstance(value, Exception):
            raise value
        return value


def memory(**bytes_: int) -> SimpleNamespace:
    return SimpleNamespace(**bytes_)


def card(uuid: str = "GPU-1", **changes: Any) -> dict[str, Any]:
    """What an idle data centre card with one process tells."""
    return {
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetName": "NVIDIA RTX 4090",
        "memory_v2": memory(total=24 * GIB, reserved=GIB // 2, free=20 * GIB, used=24 * GIB - 41 * GIB // 2),
        "nvmlDeviceGetMemoryInfo": memory(total=24 * GIB, free=20 * GIB, used=4 * GIB),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=12),
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 125_500,
        "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=4711, usedGpuMemory=3 * GIB)],
        **changes,
    }


def sample(nvml: RecordedNvml) -> list[Device]:
    return NvmlAdapter("n1", nvml).sample(5.0)


def test_a_card_tells_everything_it_knows() -> None:
    (device,) = sample(RecordedNvml([card()]))
    assert device == Device(
        node="n1",
        device="GPU-1",
        kind=DeviceKind.GPU,
        name="NVIDIA RTX 4090",
        memory_total_bytes=24 * GIB,
        memory_used_bytes=24 * GIB - 41 * GIB // 2,
        memory_free_bytes=20 * GIB,
        sampled_at=5.0,
        utilization_pct=37.0,
        temperature_c=61.0,
        power_w=125.5,
        processes=(DeviceProcess(pid=4711, memory_bytes=3 * GIB),),
    )


def test_without_a_driver_there_are_no_devices_and_it_is_asked_for_once() -> None:
    nvml = RecordedNvml([], init=LibraryNotFound("NVML Shared Library Not Found"))
    adapter = NvmlAdapter("n1", nvml)
    assert [adapter.sample(1.0), adapter.sample(2.0)] == [[], []]
    assert nvml.calls == ["nvmlInit"]


def test_the_real_module_agrees_where_there_is_no_driver() -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert NvmlAdapter("n1").sample(1.0) == []
    else:
        pytest.skip("this machine has a driver")


def test_sensors_that_are_not_supported_are_none() -> None:
    sensors = [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetComputeRunningProcesses",
    ]
    (device,) = sample(RecordedNvml([card(**{name: NotSupported() for name in sensors})]))
    assert (device.utilization_pct, device.temperature_c, device.power_w) == (None, None, None)
    assert device.processes == ()
    assert device.memory_free_bytes == 20 * GIB


def test_a_process_whose_memory_is_not_known_is_still_named() -> None:
    processes = [SimpleNamespace(pid=1, usedGpuMemory=None)]
    (device,) = sample(RecordedNvml([card(nvmlDeviceGetComputeRunningProcesses=processes)]))
    assert device.processes == (DeviceProcess(pid=1, memory_bytes=None),)


def test_two_equal_cards_are_two_devices() -> None:
    devices = sample(RecordedNvml([card("GPU-1"), card("GPU-2")]))
    assert [device.device for device in devices] == ["GPU-1", "GPU-2"]
    assert devices[0].name == devices[1].name


def test_an_old_driver_is_asked_the_old_way() -> None:
    (device,) = sample(RecordedNvml([card(memory_v2=NotSupported())]))
    assert (device.memory_used_bytes, device.memory_free_bytes) == (4 * GIB, 20 * GIB)


def test_a_lost_card_is_left_out_until_it_answers_again_and_hides_no_other() -> None:
    broken = card("GPU-1", memory_v2=GpuIsLost(), nvmlDeviceGetMemoryInfo=GpuIsLost())
    nvml = RecordedNvml([broken, card("GPU-2")])
    adapter = NvmlAdapter("n1", nvml)
    assert [device.device for device in adapter.sample(1.0)] == ["GPU-2"]
    nvml.cards[0] = card("GPU-1")
    assert [device.device for device in adapter.sample(2.0)] == ["GPU-1", "GPU-2"]


def test_a_card_that_may_not_be_opened_hides_no_other() -> None:
    devices = sample(RecordedNvml([card("GPU-1", handle=NotSupported()), card("GPU-2")]))
    assert [device.device for device in devices] == ["GPU-2"]


@pytest.mark.parametrize(
    ("uuid", "device"),
    [
        ("GPU-8f6e0a41-22b3-11ef-9c1d-0242ac120002", "GPU-8f6e0a41-22b3-11ef-9c1d-0242ac120002"),
        ("MIG-GPU-8f6e/1/0", "MIG-GPU-8f6e-1-0"),
        (NotSupported(), "gpu0"),
    ],
)
def test_a_device_id_is_a_token_whatever_the_uuid(uuid: Any, device: str) -> None:
    (sampled,) = sample(RecordedNvml([card(uuid)]))
    assert sampled.device == check_token(device)
