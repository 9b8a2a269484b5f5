"""Memory and processor time of the engine's processes."""

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
    """`reserved` with the peak memory in use on each device; an unknown value stays as it was."""
    pids = _tree(engine_pid)
    measured = []
    for entry in reserved:
        if entry.node is not None:
            measured.append(entry)
            continue
        used = _resident(pids) if entry.device == CPU else await _on_gpu(bus, node, entry.device, pids)
        peak = max(filter(None, (used, entry.measured_bytes)), default=None)
        measured.append(
            Reserved(device=entry.device, predicted_bytes=entry.predicted_bytes, measured_bytes=peak)
        )
    return tuple(measured)


def cpu_s(engine_pid: int) -> float:
    """Processor time of the engine's processes so far."""
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
    """From the monitor's sample; None if the driver does not report processes."""
    try:
        sample = await BucketStore(bus, buckets.DEVICES).get(f"{node}.{device}")
    except YardError:
        return None
    processes = sample.processes if sample else ()
    return sum(process.memory_bytes or 0 for process in processes if process.pid in pids) or None
