"""The NVML adapter with recorded results of real cards."""

from typing import Any

import pytest

from modelyard.host.settings import load
from schemas.base import check_token
from schemas.devices import Device, DeviceKind, DeviceProcess
from services.monitor.devices.nvml import SCAN_S, NvmlAdapter, throttle_reasons
from tests.unit.nvml_cards import (
    MIB,
    GpuIsLost,
    NotSupported,
    NVMLError,
    RecordedNvml,
    Results,
    a100_with_mig,
    h200,
    mig_partition,
    process,
    rtx_4090,
)


def opened(nvml: RecordedNvml) -> NvmlAdapter:
    adapter = NvmlAdapter(nvml)
    adapter.open(load({}))
    return adapter


def sample(*cards: Results) -> list[Device]:
    return list(opened(RecordedNvml(list(cards))).sample())


def test_all_sensors_of_a_card() -> None:
    (device,) = sample(rtx_4090())
    assert device == Device(
        device="GPU-1",
        kind=DeviceKind.GPU,
        name="NVIDIA GeForce RTX 4090",
        memory_total_bytes=24564 * MIB,
        memory_used_bytes=4088 * MIB,
        memory_free_bytes=20089 * MIB,
        utilization_pct=37.0,
        temperature_c=61.0,
        power_w=125.5,
        power_limit_w=450.0,
        fan_pct=31.0,
        clock_mhz=2520.0,
        memory_clock_mhz=10501.0,
        pcie_generation=4,
        pcie_width=16,
        pcie_receive_bytes_s=15_850_000.0,
        pcie_transmit_bytes_s=4_300_000.0,
        throttled_by=("power_cap",),
        processes=(
            DeviceProcess(pid=4711, memory_bytes=3072 * MIB),
            DeviceProcess(pid=1400, memory_bytes=210 * MIB),
        ),
    )


def test_an_idle_card_without_a_fan() -> None:
    (device,) = sample(h200())
    assert (device.throttled_by, device.fan_pct) == ((), None)
    assert (device.clock_mhz, device.pcie_generation, device.power_w) == (345.0, 5, 76.214)


def test_mig_partitions_are_devices_of_a_partitioned_card() -> None:
    card, first, second = sample(a100_with_mig(mig_partition(), mig_partition("MIG-2")))
    assert card.partitioned
    assert card.power_w is not None
    for partition in (first, second):
        assert partition.part_of == card.device
        assert partition.memory_total_bytes == 40192 * MIB
        assert partition.processes == (DeviceProcess(pid=990, memory_bytes=1100 * MIB),)
        assert partition.power_w is None, "the power of the card is counted once"
    assert [partition.device for partition in (first, second)] == [
        "MIG-1c2d3e4f-0a1b-5c2d-8e3f-4a5b6c7d8e9f",
        "MIG-2",
    ]


def test_new_partitions_are_found_by_the_next_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    card = a100_with_mig()
    adapter = opened(RecordedNvml([card]))
    now = 1000.0
    monkeypatch.setattr("services.monitor.devices.nvml.time.monotonic", lambda: now)
    assert len(adapter.sample()) == 1
    card["partitions"].append(mig_partition())
    assert len(adapter.sample()) == 1, "scans are slow and not done every second"
    now += SCAN_S + 1
    assert len(adapter.sample()) == 2


def test_without_a_driver_there_are_no_devices() -> None:
    nvml = RecordedNvml([], init=NVMLError("NVML Shared Library Not Found"))
    adapter = opened(nvml)
    assert [adapter.sample(), adapter.sample()] == [[], []]
    adapter.close()
    assert nvml.calls == ["nvmlInit"]


def test_pynvml_without_a_driver() -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        adapter = NvmlAdapter()
        adapter.open(load({}))
        assert adapter.sample() == []
    else:
        pytest.skip("this machine has a driver")


def test_pynvml_has_every_called_function() -> None:
    import pynvml

    recorded = {key if isinstance(key, str) else key[0] for key in a100_with_mig()}
    functions = {name for name in recorded if name.startswith("nvml")}
    assert [name for name in sorted(functions) if not hasattr(pynvml, name)] == []


def test_unsupported_sensors_are_none() -> None:
    supported = ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "memory_v2", "nvmlDeviceGetMemoryInfo")
    unsupported = {name: NotSupported() for name in rtx_4090() if name not in supported}
    (device,) = sample(rtx_4090() | unsupported)
    assert device == Device(
        device="GPU-1",
        kind=DeviceKind.GPU,
        name="NVIDIA GeForce RTX 4090",
        memory_total_bytes=24564 * MIB,
        memory_used_bytes=4088 * MIB,
        memory_free_bytes=20089 * MIB,
    )


def test_a_process_with_unknown_memory_is_listed() -> None:
    (device,) = sample(h200(nvmlDeviceGetComputeRunningProcesses=[process(1, None)]))
    assert device.processes == (DeviceProcess(pid=1, memory_bytes=None),)


def test_a_compute_and_graphics_process_is_one() -> None:
    both = {
        "nvmlDeviceGetComputeRunningProcesses": [process(1, 5 * MIB)],
        "nvmlDeviceGetGraphicsRunningProcesses": [process(1, 7 * MIB)],
    }
    (device,) = sample(h200(**both))
    assert device.processes == (DeviceProcess(pid=1, memory_bytes=7 * MIB),)


def test_two_equal_cards_are_two_devices() -> None:
    devices = sample(rtx_4090("GPU-1"), rtx_4090("GPU-2"))
    assert [device.device for device in devices] == ["GPU-1", "GPU-2"]
    assert devices[0].name == devices[1].name


def test_an_old_driver_without_memory_v2() -> None:
    (device,) = sample(rtx_4090(memory_v2=NotSupported()))
    assert (device.memory_used_bytes, device.memory_free_bytes) == (4475 * MIB, 20089 * MIB)


def test_a_lost_card_affects_no_other_and_returns() -> None:
    card = rtx_4090("GPU-1", memory_v2=GpuIsLost(), nvmlDeviceGetMemoryInfo=GpuIsLost())
    adapter = opened(RecordedNvml([card, rtx_4090("GPU-2")]))
    assert [device.device for device in adapter.sample()] == ["GPU-2"]
    card.update(rtx_4090("GPU-1"))
    assert [device.device for device in adapter.sample()] == ["GPU-1", "GPU-2"]


def test_an_unusable_card_affects_no_other() -> None:
    devices = sample(rtx_4090("GPU-1", handle=NotSupported()), rtx_4090("GPU-2"))
    assert [device.device for device in devices] == ["GPU-2"]


@pytest.mark.parametrize(
    ("uuid", "device"),
    [
        ("GPU-8f6e0a41-22b3-11ef-9c1d-0242ac120002", "GPU-8f6e0a41-22b3-11ef-9c1d-0242ac120002"),
        ("MIG-GPU-8f6e/1/0", "MIG-GPU-8f6e-1-0"),
        (NotSupported(), "gpu0"),
    ],
)
def test_device_ids_are_tokens(uuid: Any, device: str) -> None:
    (sampled,) = sample(rtx_4090(uuid))
    assert sampled.device == check_token(device)


def test_names_of_throttle_reasons() -> None:
    assert throttle_reasons(0x1 | 0x20 | 0x80) == ("thermal", "power_brake")
    assert throttle_reasons(None) == ()
