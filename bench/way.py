"""A way to a model, and what it costs."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from bench.client import Target


@dataclass
class Usage:
    """What the processes of a way have used."""

    cpu_s: float
    rss_mib: float


@dataclass(frozen=True)
class Way:
    """Where to ask, and what it has cost so far."""

    target: Target
    usage: Callable[[], Usage]


def usage_of(processes: Iterable[psutil.Process]) -> Usage:
    """The sum over processes; one that is gone counts nothing."""
    total = Usage(0.0, 0.0)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total.cpu_s += times.user + times.system
            total.rss_mib += process.memory_info().rss / 2**20
    return total
