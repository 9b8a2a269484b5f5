"""How much memory the engine takes, by the system's own count."""

import contextlib

import psutil

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.errors import YardError
from schemas.instances import Reserved
from schemas.profiles import CPU


async def measure(
    bus: Bus, node: str, engine_pid: int, reserved: tuple[Reserved, ...]
) -> tuple[Reserved, ...]:
    """`reserved` with what is taken of each device now; what cannot be known stays as it was."""
    pids = _tree(engine_pid)
    measured = []
    for one in reserved:
        if one.node is not None:
            measured.append(one)
            continue
        found = _resident(pids) if one.device == CPU else await _on_gpu(bus, node, one.device, pids)
        most = max(filter(None, (found, one.measured_bytes)), default=None)
        measured.append(Reserved(device=one.device, predicted_bytes=one.predicted_bytes, measured_bytes=most))
    return tuple(measured)


def cpu_s(engine_pid: int) -> float:
    """Processor time that its processes have used by now."""
    total = 0.0
    for pid in _tree(engine_pid):
        with contextlib.suppress(psutil.Error):
            used = psutil.Process(pid).cpu_times()
            total += used.user + used.system
    return total


def _tree(pid: int) -> set[int]:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        return {pid, *(child.pid for child in root.children(recursive=True))}
    return set()


def _resident(pids: set[int]) -> int | None:
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total or None


async def _on_gpu(bus: Bus, node: str, device: str, pids: set[int]) -> int | None:
    """As the monitor sees it; None where the driver does not tell processes apart."""
    try:
        sample = await BucketStore(bus, buckets.DEVICES).get(f"{node}.{device}")
    except YardError:
        return None
    used = [one.memory_bytes for one in sample.processes if one.pid in pids] if sample else []
    return sum(filter(None, used)) or None
