"""Graphics cards in /sys/class/drm and the memory that processes have of them, for all vendors."""

import contextlib
import re
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter, as_token
from schemas.base import Record
from schemas.devices import Device, DeviceProcess


def read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def read_field(path: Path, label: str, separator: str) -> str | None:
    """The value of the first line `label separator value` that has one."""
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(separator)
        if name.strip() == label and value.strip():
            return value.strip()
    return None


def read_float(path: Path, factor: float = 1.0) -> float | None:
    """The first number in a file, times `factor`."""
    try:
        return float((read_text(path) or "").split()[0]) * factor
    except (ValueError, IndexError):
        return None


def read_int(path: Path) -> int | None:
    """An integer, exact at any size."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


SCAN_S = 30.0
CLIENTS_S = 5.0
"""How often the memory of processes is read, which walks through all processes."""
_CARD = re.compile(r"card\d+")
_PCIE_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
"""By GT/s."""
_VRAM_KEYS = ("drm-resident-vram0", "drm-memory-vram", "drm-resident-local0", "drm-total-vram0")
"""Keys of fdinfo by driver, resident memory before requested memory."""
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB)?")
_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2}
_MAX_FDINFO = 1 << 16


class DrmCard(Record):
    """One card: where its files are, and its address."""

    folder: Path
    """The PCI device."""
    drm: Path
    hwmon: Path | None
    address: str
    """On the PCI bus, `0000:03:00.0`."""

    @property
    def token(self) -> str:
        return as_token(self.address)


class DrmAdapter(DeviceAdapter):
    """The cards of one vendor, scanned periodically, with the memory of their clients."""

    vendor: str
    """On the PCI bus, `0x1002`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cards: list[DrmCard] = []
        self._clients: Mapping[str, Mapping[int, int]] = {}
        self._scanned_at = self._clients_at = float("-inf")

    def open(self, settings: Settings) -> None:
        self._scan(time.monotonic())

    def sample(self) -> Sequence[Device]:
        now = time.monotonic()
        if now - self._scanned_at > SCAN_S:
            self._scan(now)
        if self._cards and now - self._clients_at > CLIENTS_S:
            self._clients_at, self._clients = now, drm_clients(self._root)
        return [device for card in self._cards if (device := self.device(card, now)) is not None]

    @abstractmethod
    def device(self, card: DrmCard, now: float) -> Device | None:
        """The sample of a card; None without its essential values."""
        ...

    def client_memory(self, card: DrmCard) -> Mapping[int, int]:
        return self._clients.get(card.address, {})

    def _scan(self, now: float) -> None:
        self._scanned_at, self._cards = now, list(find_cards(self._root, self.vendor))


def find_cards(root: Path, vendor: str) -> Iterator[DrmCard]:
    paths = (path for path in (root / "sys/class/drm").glob("card*") if _CARD.fullmatch(path.name))
    for drm in sorted(paths, key=lambda path: int(path.name.removeprefix("card"))):
        folder = (drm / "device").resolve()
        if read_text(folder / "vendor") == vendor:
            sensors = sorted((folder / "hwmon").glob("hwmon*"))
            hwmon = sensors[0] if sensors else None
            address = read_field(folder / "uevent", "PCI_SLOT_NAME", "=") or folder.name
            yield DrmCard(folder=folder, drm=drm, hwmon=hwmon, address=address)


def link_generation(card: DrmCard) -> int | None:
    """The present generation of its PCIe link: `16.0 GT/s PCIe` is 4."""
    speed = (read_text(card.folder / "current_link_speed") or "").split(" ")[0]
    return _PCIE_GENERATIONS.get(speed)


def link_width(card: DrmCard) -> int | None:
    width = read_float(card.folder / "current_link_width")
    return int(width) if width else None


def sensor(card: DrmCard, *names: str, factor: float) -> float | None:
    """The first of these sensors that the card has."""
    if card.hwmon is None:
        return None
    for name in names:
        if (value := read_float(card.hwmon / name, factor)) is not None:
            return value
    return None


def drm_clients(root: Path) -> dict[str, dict[int, int]]:
    """Bytes of card memory by PCI address and process id, from the fdinfo of readable processes."""
    memory: dict[str, dict[int, int]] = {}
    for pid in _process_ids(root):
        counted: set[str] = set()
        for text in _fdinfo(root, pid):
            info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            address = info.get("drm-pdev", "").strip()
            client = f"{address} {info.get('drm-client-id', '').strip()}"
            # Duplicated file descriptors are one client.
            if address and client not in counted:
                counted.add(client)
                by_process = memory.setdefault(address, {})
                by_process[pid] = by_process.get(pid, 0) + _vram_bytes(info)
    return memory


def device_processes(memory: Mapping[int, int]) -> tuple[DeviceProcess, ...]:
    return tuple(
        DeviceProcess(pid=pid, memory_bytes=size) for pid, size in sorted(memory.items()) if size > 0
    )


def _vram_bytes(info: Mapping[str, str]) -> int:
    size = next((info[key] for key in _VRAM_KEYS if key in info), "")
    match = _SIZE.fullmatch(size.strip())
    return int(match[1]) * _UNITS[match[2] or ""] if match else 0


def _process_ids(root: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(path.name) for path in (root / "proc").iterdir() if path.name.isdecimal()]
    return []


def _fdinfo(root: Path, pid: int) -> Iterator[str]:
    folder = root / "proc" / str(pid)
    with contextlib.suppress(OSError):
        for descriptor in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                if "/dev/dri/" in str(descriptor.readlink()):
                    with (folder / "fdinfo" / descriptor.name).open() as file:
                        yield file.read(_MAX_FDINFO)
