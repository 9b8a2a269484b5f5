"""A route to a model, and its cost."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from bench.client import Target


@dataclass
class ProcessUsage:
    """Processor time and memory of the processes of a route."""

    cpu_s: float
    rss_mib: float


@dataclass(frozen=True)
class Route:
    """A target and the usage of its processes so far."""

    target: Target
    usage: Callable[[], ProcessUsage]


def usage_of(processes: Iterable[psutil.Process]) -> ProcessUsage:
    """The sum over processes; exited ones are skipped."""
    total = ProcessUsage(0.0, 0.0)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total.cpu_s += times.user + times.system
            total.rss_mib += process.memory_info().rss / 2**20
    return total
