"""Intel cards, by what the kernel's xe and i915 drivers show in files.

A processor's own graphics has no memory but the main one, and shows with none. How busy a card is, neither
driver tells in files.
"""

from pathlib import Path

from schemas.devices import Device, DeviceKind
from services.monitor.devices.cards import Card, CardsAdapter, link_generation, link_width, sensor
from services.monitor.devices.drm_clients import processes
from services.monitor.devices.files import read_number, read_text, read_whole


class IntelAdapter(CardsAdapter):
    """Every card of these drivers."""

    name = "intel"
    vendor = "0x8086"

    def __init__(self, root: Path = Path("/")) -> None:
        super().__init__(root)
        self._energy: dict[str, tuple[float, float]] = {}

    def device(self, card: Card, now: float) -> Device:
        taken = self.taken(card)
        total, used = _memory(card, sum(taken.values()))
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
            processes=processes(taken),
        )

    def _power_w(self, card: Card, now: float) -> float | None:
        """The drivers count energy; what is drawn is how it grows."""
        energy_j = sensor(card, "energy1_input", factor=1e-6)
        if energy_j is None:
            return sensor(card, "power1_input", factor=1e-6)
        before, self._energy[card.address] = self._energy.get(card.address), (now, energy_j)
        if before is None or now <= before[0] or energy_j < before[1]:
            return None
        return (energy_j - before[1]) / (now - before[0])


def _memory(card: Card, of_clients: int) -> tuple[int, int]:
    """Total and used bytes. i915 tells what is available, of xe we know what processes say they have."""
    total = read_whole(card.drm / "lmem_total_bytes")
    available = read_whole(card.drm / "lmem_avail_bytes")
    if total is not None and available is not None:
        return total, max(total - available, 0)
    sizes = [read_whole(path) for path in sorted(card.folder.glob("tile*/physical_vram_size_bytes"))]
    total = total or sum(size for size in sizes if size is not None)
    return total, min(of_clients, total)


def _clock_mhz(card: Card) -> float | None:
    xe = card.folder / "tile0/gt0/freq0/act_freq"
    clock = read_number(xe)
    return read_number(card.drm / "gt_act_freq_mhz") if clock is None else clock
