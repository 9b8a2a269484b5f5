"""Graphics cards as Linux shows them in /sys/class/drm, and what all drivers there have in common."""

import re
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modelyard.host.settings import Settings
from modelyard.plugins import DeviceAdapter, as_token
from schemas.base import Record
from schemas.devices import Device
from services.monitor.devices.drm_clients import clients
from services.monitor.devices.files import read_number, read_text

LOOK_AGAIN_S = 30.0
CLIENTS_S = 5.0
"""How often processes are looked at; that walks through all of them."""
_CARD = re.compile(r"card\d+")
_SPEEDS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}
"""GT/s to the generation of PCIe."""


class Card(Record):
    """One card: where its files are, and what it is called."""

    folder: Path
    """The PCI device."""
    drm: Path
    hwmon: Path | None
    address: str
    """On the PCI bus, `0000:03:00.0`."""

    @property
    def token(self) -> str:
        return as_token(self.address)


class CardsAdapter(DeviceAdapter):
    """The cards of one vendor: found again now and then, with what processes take of each."""

    vendor: str
    """On the PCI bus, `0x1002`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._cards: list[Card] = []
        self._clients: Mapping[str, Mapping[int, int]] = {}
        self._looked_at = self._clients_at = float("-inf")

    def open(self, settings: Settings) -> None:
        self._look(time.monotonic())

    def sample(self) -> Sequence[Device]:
        now = time.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._look(now)
        if self._cards and now - self._clients_at > CLIENTS_S:
            self._clients_at, self._clients = now, clients(self._root)
        return [device for card in self._cards if (device := self.device(card, now)) is not None]

    @abstractmethod
    def device(self, card: Card, now: float) -> Device | None:
        """What a card tells; None if it does not tell enough."""
        ...

    def taken(self, card: Card) -> Mapping[int, int]:
        """Bytes of its memory by process id."""
        return self._clients.get(card.address, {})

    def _look(self, now: float) -> None:
        self._looked_at, self._cards = now, list(cards(self._root, self.vendor))


def cards(root: Path, vendor: str) -> Iterator[Card]:
    """The cards of one vendor, `0x1002`; in the order of their numbers."""
    found = (path for path in (root / "sys/class/drm").glob("card*") if _CARD.fullmatch(path.name))
    for drm in sorted(found, key=lambda path: int(path.name.removeprefix("card"))):
        folder = (drm / "device").resolve()
        if read_text(folder / "vendor") == vendor:
            sensors = sorted((folder / "hwmon").glob("hwmon*"))
            hwmon = sensors[0] if sensors else None
            yield Card(folder=folder, drm=drm, hwmon=hwmon, address=_address(folder))


def _address(folder: Path) -> str:
    """The kernel names the device's folder by its address; `uevent` says it as well."""
    for line in (read_text(folder / "uevent") or "").splitlines():
        label, _, value = line.partition("=")
        if label == "PCI_SLOT_NAME":
            return value
    return folder.name


def link_generation(card: Card) -> int | None:
    """Of its PCIe link as it runs now: `16.0 GT/s PCIe` is 4."""
    return _SPEEDS.get((read_text(card.folder / "current_link_speed") or "").split(" ")[0])


def link_width(card: Card) -> int | None:
    width = read_number(card.folder / "current_link_width")
    return int(width) if width else None


def sensor(card: Card, *names: str, factor: float) -> float | None:
    """The first of these sensors that the card has."""
    if card.hwmon is None:
        return None
    for name in names:
        if (value := read_number(card.hwmon / name, factor)) is not None:
            return value
    return None
