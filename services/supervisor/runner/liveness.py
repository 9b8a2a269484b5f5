"""Liveness of a ready engine, and the memory and processor time of its processes."""

import asyncio
import contextlib
import time

import msgspec
import psutil

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.base import Record
from schemas.errors import YardError
from schemas.instances import Reserved
from schemas.profiles import CPU
from services.supervisor.runner.engine_process import EngineProcess
from services.supervisor.runner.upstream import Upstream

SAMPLES = 6
"""Samples within the time after which an engine counts as hung."""
MIN_MISSED = 3
"""Samples in a row without a sign of life: after a suspension of the runner the engine is not hung."""
COMPUTING_FACTOR = 10.0
"""An engine that computes gets this many times longer: a long prompt may block its only thread."""
_COMPUTING_SHARE = 0.1
"""The share of one processor that counts as computing; an overloaded machine may give no more."""
_HEALTH_TIMEOUT_S = 5.0


async def measure(
    bus: Bus, node: str, engine_pid: int, reserved: tuple[Reserved, ...]
) -> tuple[Reserved, ...]:
    """`reserved` with the peak memory in use on each device; an unknown value stays as it was."""
    pids = _tree(engine_pid)
    measured = []
    for entry in reserved:
        peak = entry.measured_bytes
        if entry.node is None:
            used = _resident(pids) if entry.device == CPU else await _on_gpu(bus, node, entry.device, pids)
            peak = max(filter(None, (used, peak)), default=None)
        measured.append(msgspec.structs.replace(entry, measured_bytes=peak))
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


class LivenessSample(Record):
    """The state of an engine at one moment."""

    at_s: float
    """Of a clock that stops while the machine sleeps."""
    healthy: bool
    """Its health path answered in time."""
    received_bytes: int
    """Bytes of all its answers since the start."""
    cpu_s: float
    """Processor time of its processes."""


class HangDetector:
    """Decides over a series of samples. Pure."""

    def __init__(self, first: LivenessSample, hang_s: float) -> None:
        self._last = first
        self._hang_s = hang_s
        self._alive_at_s = self._idle_since_s = first.at_s
        self._missed = 0

    def is_hung(self, sample: LivenessSample) -> bool:
        """Whether it gave no sign of life for `hang_s`, or only computed for ten times as long."""
        last, self._last = self._last, sample
        self._missed += 1
        if sample.healthy or sample.received_bytes != last.received_bytes:
            self._alive_at_s, self._missed = sample.at_s, 0
        computed_s, passed_s = sample.cpu_s - last.cpu_s, sample.at_s - last.at_s
        if not self._missed or computed_s >= _COMPUTING_SHARE * passed_s:
            self._idle_since_s = sample.at_s
        return self._missed >= MIN_MISSED and (
            sample.at_s - self._idle_since_s >= self._hang_s
            or sample.at_s - self._alive_at_s >= COMPUTING_FACTOR * self._hang_s
        )


async def wait_until_hung(process: EngineProcess, upstream: Upstream, hang_s: float) -> None:
    """Return when the engine gave no sign of life for `hang_s`; never if that is 0."""
    if not hang_s:
        await asyncio.Event().wait()
    detector = HangDetector(await _sample(process, upstream, _HEALTH_TIMEOUT_S), hang_s)
    every_s = hang_s / SAMPLES
    while True:
        await asyncio.sleep(every_s)
        process.reset_oom_kills()
        if detector.is_hung(await _sample(process, upstream, min(every_s, _HEALTH_TIMEOUT_S))):
            return


async def _sample(process: EngineProcess, upstream: Upstream, timeout_s: float) -> LivenessSample:
    healthy = await upstream.is_healthy(timeout_s)
    return LivenessSample(
        at_s=time.monotonic(),
        healthy=healthy,
        received_bytes=upstream.received_bytes,
        cpu_s=cpu_s(process.pid),
    )
