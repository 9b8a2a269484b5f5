"""Why an engine ended, as far as its last lines and the kernel tell."""

import re
import signal
from collections.abc import Iterable
from pathlib import Path

from schemas.instances import Reason

_NO_MEMORY = re.compile(
    r"out of memory|outofmemory|out_of_memory|(failed|unable|cannot|can't) (to )?allocate|cudaMalloc failed"
    r"|no available memory for the cache|bad_alloc|MemoryError",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"mlock", re.IGNORECASE)
"""llama.cpp warns with the same words when it may not lock its pages, and goes on."""
_VMSTAT = Path("/proc/vmstat")


def cause(lines: Iterable[str], exit_code: int | None, *, kernel_killed: bool) -> Reason:
    """OOM or CRASHED, from what was said last, the exit code and whether the kernel ended processes."""
    if exit_code == -signal.SIGKILL and kernel_killed:
        return Reason.OOM
    return Reason.OOM if any(map(tells_no_memory, lines)) else Reason.CRASHED


def tells_no_memory(line: str) -> bool:
    """Whether somebody says here that he did not get the memory he wanted."""
    return bool(_NO_MEMORY.search(line)) and not _HARMLESS.search(line)


def kernel_kills(vmstat: Path = _VMSTAT) -> int | None:
    """How many processes the kernel has ended for want of memory; None where it does not say."""
    try:
        counts = dict(line.split() for line in vmstat.read_text().splitlines())
        return int(counts["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None
