"""The NVML adapter against what real cards answered."""

from typing import Any

import pytest

from modelyard.host.settings import load
from schemas.base import check_token
from schemas.devices import Device, DeviceKind, DeviceProcess
from services.monitor.devices.nvml import LOOK_AGAIN_S, NvmlAdapter, held_down_by
from tests.unit.nvml_cards import (
    MIB,
    Answers,
    GpuIsLost,
    NotSupported,
    NVMLError,
    RecordedNvml,
    a100_in_parts,
    h200,
    mig_part,
    process,
    rtx_4090,
)


def opened(nvml: RecordedNvml) -> NvmlAdapter:
    adapter = NvmlAdapter(nvml)
    adapter.open(load({}))
    return adapter


def sample(*cards: Answers) -> list[Device]:
    return list(opened(RecordedNvml(list(cards))).sample())


def test_a_card_tells_everything_it_knows() -> None:
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


def test_a_card_at_rest_is_not_throttled_and_one_without_a_fan_has_no_fan_speed() -> None:
    (device,) = sample(h200())
    assert (device.throttled_by, device.fan_pct) == ((), None)
    assert (device.clock_mhz, device.pcie_generation, device.power_w) == (345.0, 5, 76.214)


def test_parts_of_a_card_are_devices_and_the_whole_says_that_it_is_in_parts() -> None:
    whole, first, second = sample(a100_in_parts(mig_part(), mig_part("MIG-2")))
    assert whole.partitioned
    assert whole.power_w is not None
    for part in (first, second):
        assert part.part_of == whole.device
        assert part.memory_total_bytes == 40192 * MIB
        assert part.processes == (DeviceProcess(pid=990, memory_bytes=1100 * MIB),)
        assert part.power_w is None, "what the whole draws is counted once"
    assert [part.device for part in (first, second)] == ["MIG-1c2d3e4f-0a1b-5c2d-8e3f-4a5b6c7d8e9f", "MIG-2"]


def test_parts_come_and_go_while_the_driver_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    card = a100_in_parts()
    adapter = opened(RecordedNvml([card]))
    now = 1000.0
    monkeypatch.setattr("services.monitor.devices.nvml.time.monotonic", lambda: now)
    assert len(adapter.sample()) == 1
    card["parts"].append(mig_part())
    assert len(adapter.sample()) == 1, "looking takes long, so it is not done every second"
    now += LOOK_AGAIN_S + 1
    assert len(adapter.sample()) == 2


def test_without_a_driver_there_are_no_devices_and_it_is_asked_for_once() -> None:
    nvml = RecordedNvml([], init=NVMLError("NVML Shared Library Not Found"))
    adapter = opened(nvml)
    assert [adapter.sample(), adapter.sample()] == [[], []]
    adapter.close()
    assert nvml.calls == ["nvmlInit"]


def test_the_real_module_agrees_where_there_is_no_driver() -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        adapter = NvmlAdapter()
        adapter.open(load({}))
        assert adapter.sample() == []
    else:
        pytest.skip("this machine has a driver")


def test_the_real_module_has_every_function_that_is_asked() -> None:
    import pynvml

    recorded = {key if isinstance(key, str) else key[0] for key in a100_in_parts()}
    functions = {name for name in recorded if name.startswith("nvml")}
    assert [name for name in sorted(functions) if not hasattr(pynvml, name)] == []


def test_sensors_that_are_not_supported_are_none() -> None:
    kept = ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "memory_v2", "nvmlDeviceGetMemoryInfo")
    silent = {name: NotSupported() for name in rtx_4090() if name not in kept}
    (device,) = sample(rtx_4090() | silent)
    assert device == Device(
        device="GPU-1",
        kind=DeviceKind.GPU,
        name="NVIDIA GeForce RTX 4090",
        memory_total_bytes=24564 * MIB,
        memory_used_bytes=4088 * MIB,
        memory_free_bytes=20089 * MIB,
    )


def test_a_process_whose_memory_is_not_known_is_still_named() -> None:
    (device,) = sample(h200(nvmlDeviceGetComputeRunningProcesses=[process(1, None)]))
    assert device.processes == (DeviceProcess(pid=1, memory_bytes=None),)


def test_a_process_that_computes_and_draws_is_one() -> None:
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


def test_an_old_driver_is_asked_the_old_way() -> None:
    (device,) = sample(rtx_4090(memory_v2=NotSupported()))
    assert (device.memory_used_bytes, device.memory_free_bytes) == (4475 * MIB, 20089 * MIB)


def test_a_lost_card_is_left_out_until_it_answers_again_and_hides_no_other() -> None:
    card = rtx_4090("GPU-1", memory_v2=GpuIsLost(), nvmlDeviceGetMemoryInfo=GpuIsLost())
    adapter = opened(RecordedNvml([card, rtx_4090("GPU-2")]))
    assert [device.device for device in adapter.sample()] == ["GPU-2"]
    card.update(rtx_4090("GPU-1"))
    assert [device.device for device in adapter.sample()] == ["GPU-1", "GPU-2"]


def test_a_card_that_may_not_be_opened_hides_no_other() -> None:
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
def test_a_device_id_is_a_token_whatever_the_uuid(uuid: Any, device: str) -> None:
    (sampled,) = sample(rtx_4090(uuid))
    assert sampled.device == check_token(device)


def test_reasons_for_low_clocks_have_names_but_idling_is_none() -> None:
    assert held_down_by(0x1 | 0x20 | 0x80) == ("thermal", "power_brake")
    assert held_down_by(None) == ()
