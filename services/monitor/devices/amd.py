"""AMD cards, from the files of the kernel's amdgpu driver."""

from modelyard.plugins import as_token
from schemas.devices import Device, DeviceKind
from services.monitor.devices.drm_cards import (
    DrmAdapter,
    DrmCard,
    device_processes,
    link_generation,
    link_width,
    sensor,
)
from services.monitor.devices.kernel_files import read_float, read_int, read_text


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
