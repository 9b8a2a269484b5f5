"""AMD and Intel cards, from the files of the kernel's drivers."""

from pathlib import Path

from modelyard.plugins import as_token
from schemas.devices import Device, DeviceKind
from services.monitor.devices.drm_cards import (
    DrmAdapter,
    DrmCard,
    device_processes,
    link_generation,
    link_width,
    read_float,
    read_int,
    read_text,
    sensor,
)


class AmdAdapter(DrmAdapter):
    """Every card that reports its memory."""

    name = "amd"
    vendor = "0x1002"

    def device(self, card: DrmCard, now: float) -> Device | None:
        total = read_int(card.folder / "mem_info_vram_total")
        used = read_int(card.folder / "mem_info_vram_used")
        if total is None or used is None:
            return None
        unique = read_text(card.folder / "unique_id")
        return Device(
            device=f"AMD-{as_token(unique or card.address)}",
            kind=DeviceKind.GPU,
            name=read_text(card.folder / "product_name") or f"AMD GPU {card.address}",
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=max(total - used, 0),
            utilization_pct=read_float(card.folder / "gpu_busy_percent"),
            temperature_c=sensor(card, "temp1_input", "temp2_input", factor=1e-3),
            power_w=sensor(card, "power1_average", "power1_input", factor=1e-6),
            power_limit_w=sensor(card, "power1_cap", factor=1e-6),
            fan_pct=_fan_pct(card),
            clock_mhz=sensor(card, "freq1_input", factor=1e-6),
            memory_clock_mhz=sensor(card, "freq2_input", factor=1e-6),
            pcie_generation=link_generation(card),
            pcie_width=link_width(card),
            processes=device_processes(self.client_memory(card)),
        )


def _fan_pct(card: DrmCard) -> float | None:
    speed = sensor(card, "fan1_input", factor=1.0)
    fastest = sensor(card, "fan1_max", factor=1.0)
    if speed is not None and fastest:
        return min(100.0, 100 * speed / fastest)
    return sensor(card, "pwm1", factor=100 / 255)


class IntelAdapter(DrmAdapter):
    name = "intel"
    vendor = "0x8086"

    def __init__(self, root: Path = Path("/")) -> None:
        super().__init__(root)
        self._energy: dict[str, tuple[float, float]] = {}

    def device(self, card: DrmCard, now: float) -> Device:
        by_process = self.client_memory(card)
        total, used = _memory(card, sum(by_process.values()))
        return Device(
            device=f"INTEL-{card.token}",
            kind=DeviceKind.GPU,
            name=read_text(card.folder / "label") or f"Intel GPU {card.address}",
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=max(total - used, 0),
            temperature_c=sensor(card, "temp2_input", "temp1_input", factor=1e-3),
            power_w=self._power_w(card, now),
            power_limit_w=sensor(card, "power1_max", "power1_cap", factor=1e-6),
            clock_mhz=_clock_mhz(card),
            pcie_generation=link_generation(card),
            pcie_width=link_width(card),
            processes=device_processes(by_process),
        )

    def _power_w(self, card: DrmCard, now: float) -> float | None:
        """The drivers count energy; power is its increase."""
        energy_j = sensor(card, "energy1_input", factor=1e-6)
        if energy_j is None:
            return sensor(card, "power1_input", factor=1e-6)
        before, self._energy[card.address] = self._energy.get(card.address), (now, energy_j)
        if before is None or now <= before[0] or energy_j < before[1]:
            return None
        return (energy_j - before[1]) / (now - before[0])


def _memory(card: DrmCard, client_bytes: int) -> tuple[int, int]:
    """Total and used bytes: i915 reports available bytes, with xe the memory of the clients is used."""
    total = read_int(card.drm / "lmem_total_bytes")
    available = read_int(card.drm / "lmem_avail_bytes")
    if total is not None and available is not None:
        return total, max(total - available, 0)
    sizes = [read_int(path) for path in sorted(card.folder.glob("tile*/physical_vram_size_bytes"))]
    total = total or sum(size for size in sizes if size is not None)
    return total, min(client_bytes, total)


def _clock_mhz(card: DrmCard) -> float | None:
    clock = read_float(card.folder / "tile0/gt0/freq0/act_freq")
    return read_float(card.drm / "gt_act_freq_mhz") if clock is None else clock
