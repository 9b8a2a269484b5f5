"""Which processes have memory of a graphics card: every driver tells it beside the file they opened it by."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from schemas.devices import DeviceProcess

_VRAM = ("drm-resident-vram0", "drm-memory-vram", "drm-resident-local0", "drm-total-vram0")
"""Where drivers tell it, best first: what is there, then what was asked for."""
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB)?")
_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2}
_LARGEST = 1 << 16
"""Bytes of such a text that are read at most."""


def clients(root: Path) -> dict[str, dict[int, int]]:
    """Bytes of card memory by PCI address and process, of those processes that we may look at."""
    found: dict[str, dict[int, int]] = {}
    for pid in _pids(root):
        seen: set[str] = set()
        for text in _cards_opened(root, pid):
            said = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            address = said.get("drm-pdev", "").strip()
            client = f"{address} {said.get('drm-client-id', '').strip()}"
            # A file that was opened once and copied is one client, however many numbers it has.
            if address and client not in seen:
                seen.add(client)
                taken = found.setdefault(address, {})
                taken[pid] = taken.get(pid, 0) + _vram_bytes(said)
    return found


def processes(taken: Mapping[int, int]) -> tuple[DeviceProcess, ...]:
    """Those that have some of it."""
    return tuple(DeviceProcess(pid=pid, memory_bytes=size) for pid, size in sorted(taken.items()) if size > 0)


def _vram_bytes(said: Mapping[str, str]) -> int:
    told = next((said[name] for name in _VRAM if name in said), "")
    match = _SIZE.fullmatch(told.strip())
    return int(match[1]) * _UNITS[match[2] or ""] if match else 0


def _pids(root: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(path.name) for path in (root / "proc").iterdir() if path.name.isdecimal()]
    return []


def _cards_opened(root: Path, pid: int) -> Iterator[str]:
    folder = root / "proc" / str(pid)
    with contextlib.suppress(OSError):
        for opened in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                if "/dev/dri/" in str(opened.readlink()):
                    with (folder / "fdinfo" / opened.name).open() as file:
                        yield file.read(_LARGEST)
