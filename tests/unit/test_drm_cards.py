"""AMD and Intel cards, from recorded files of the kernel."""

from pathlib import Path

import pytest

from modelyard.host.settings import load
from schemas.devices import Device, DeviceKind, DeviceProcess
from services.monitor.devices.drm_adapters import AmdAdapter, IntelAdapter
from tests.unit.device_trees import (
    AMD_CLIENT,
    ARC_A770,
    ARC_B580,
    GIB,
    RADEON_7900,
    XE_CLIENT,
    add_card,
    add_client,
    write,
)


def amd(root: Path) -> list[Device]:
    adapter = AmdAdapter(root)
    adapter.open(load({}))
    return list(adapter.sample())


def intel(root: Path) -> list[Device]:
    adapter = IntelAdapter(root)
    adapter.open(load({}))
    return list(adapter.sample())


def test_all_sensors_of_an_amd_card(tmp_path: Path) -> None:
    add_card(tmp_path, 1, RADEON_7900, "0000:03:00.0")
    add_client(tmp_path, 4711, 5, AMD_CLIENT.format(client=12, kib=1024))
    add_client(tmp_path, 4711, 6, AMD_CLIENT.format(client=12, kib=1024))
    add_client(tmp_path, 4711, 7, AMD_CLIENT.format(client=13, kib=512))
    assert amd(tmp_path) == [
        Device(
            device="AMD-f2d0a1b3c4e59687",
            kind=DeviceKind.GPU,
            name="AMD GPU 0000:03:00.0",
            memory_total_bytes=24 * GIB,
            memory_used_bytes=GIB,
            memory_free_bytes=23 * GIB,
            utilization_pct=37.0,
            temperature_c=54.0,
            power_w=87.0,
            power_limit_w=327.0,
            fan_pct=25.0,
            clock_mhz=2265.0,
            memory_clock_mhz=1249.0,
            pcie_generation=4,
            pcie_width=16,
            # Duplicated descriptors are one client.
            processes=(DeviceProcess(pid=4711, memory_bytes=1536 * 1024),),
        )
    ]
    assert intel(tmp_path) == []


def test_cards_without_sensors_and_without_memory(tmp_path: Path) -> None:
    bare = {name: RADEON_7900[name] for name in ("vendor", "mem_info_vram_total", "mem_info_vram_used")}
    add_card(tmp_path, 0, bare, "0000:03:00.0")
    add_card(tmp_path, 1, {"vendor": "0x1002"}, "0000:07:00.0")
    (device,) = amd(tmp_path)
    assert device.device == "AMD-0000-03-00-0"
    assert (device.temperature_c, device.power_w, device.pcie_width, device.fan_pct) == (None,) * 4


@pytest.mark.parametrize("invalid", ["", "N/A", "-", "1 2 x"])
def test_an_invalid_sensor_is_none_and_affects_no_other(tmp_path: Path, invalid: str) -> None:
    broken = {name: invalid for name in RADEON_7900 if name.startswith("hwmon") and name.endswith("_input")}
    device = add_card(tmp_path, 0, RADEON_7900 | broken, "0000:03:00.0")
    (sampled,) = amd(tmp_path)
    assert sampled.power_w == 87.0
    assert sampled.temperature_c in (None, 1e-3)
    (device / "mem_info_vram_used").unlink()
    assert amd(tmp_path) == []


def test_the_power_of_an_xe_card_follows_from_its_energy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_card(tmp_path, 0, ARC_B580, "0000:04:00.0")
    add_client(tmp_path, 99, 4, XE_CLIENT)
    now = 100.0
    monkeypatch.setattr("services.monitor.devices.drm_cards.time.monotonic", lambda: now)
    adapter = IntelAdapter(tmp_path)
    adapter.open(load({}))
    (first,) = adapter.sample()
    assert first.power_w is None, "power needs two samples"
    now = 102.0
    write(folder, {"hwmon/hwmon5/energy1_input": "81000000"})
    (second,) = adapter.sample()
    assert second == Device(
        device="INTEL-0000-04-00-0",
        kind=DeviceKind.GPU,
        name="Intel GPU 0000:04:00.0",
        memory_total_bytes=12 * GIB,
        memory_used_bytes=2 * 2**20,
        memory_free_bytes=12 * GIB - 2 * 2**20,
        temperature_c=48.0,
        power_w=40.0,
        power_limit_w=190.0,
        clock_mhz=2850.0,
        pcie_generation=4,
        pcie_width=8,
        processes=(DeviceProcess(pid=99, memory_bytes=2 * 2**20),),
    )


def test_the_memory_of_i915_cards_and_of_integrated_graphics(tmp_path: Path) -> None:
    add_card(tmp_path, 0, ARC_A770, "0000:04:00.0")
    drm = tmp_path / "sys/class/drm/card0"
    write(
        drm, {"lmem_total_bytes": str(16 * GIB), "lmem_avail_bytes": str(10 * GIB), "gt_act_freq_mhz": "2400"}
    )
    add_card(tmp_path, 1, {"vendor": "0x8086"}, "0000:00:02.0")
    card, graphics = intel(tmp_path)
    assert (card.memory_used_bytes, card.clock_mhz) == (6 * GIB, 2400.0)
    assert (graphics.device, graphics.memory_total_bytes) == ("INTEL-0000-00-02-0", 0)


def test_a_host_without_cards(tmp_path: Path) -> None:
    assert (amd(tmp_path), intel(tmp_path)) == ([], [])
