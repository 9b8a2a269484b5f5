"""`make bench-downloads`: `yard pull` and `hf download` of the same file from the same hub, in one run.

The file is sparse at the hub, so that no disk is read; with YARD_BENCH_NOISE=1 it has random bytes. `yard
pull` checks the sha256 and syncs every byte to the disk, `hf download` does neither; the second row includes
a sync. YARD_BENCH_FOLDER sets the folder (default: the folder for temporary files), YARD_BENCH_GIB the size
(default 5), YARD_BENCH_ROUNDS the repetitions (default 2).
"""

import asyncio
import contextlib
import hashlib
import os
import re
import resource
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from bench.hub import FILE, REPO

GIB = int(os.environ.get("YARD_BENCH_GIB", "5"))
ROUNDS = int(os.environ.get("YARD_BENCH_ROUNDS", "2"))
NOISE = bool(os.environ.get("YARD_BENCH_NOISE"))
WATCHERS = 50
SAMPLE_EVERY_S = 0.1
REST_S = 3.0
"""A yard is at rest this long after its start."""
_URL = re.compile(r"OpenAI base URL\s+http://(127\.0\.0\.1:\d+)/v1")
_HEAD = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 20) + b"general.architecture"


@dataclass
class Cost:
    """Time, processor time, and peak memory of all processes of one route."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    rss_mib: float = 0.0
    pss_mib: float = 0.0
    """As RSS, with shared pages counted once."""
    parts_mib: dict[str, float] = field(default_factory=dict)
    """`pss_mib` by process."""


class ProcessSample(NamedTuple):
    """A process of a home at one moment."""

    pid: int
    name: str
    cpu_s: float
    rss_mib: float
    pss_mib: float


class ProcessSampler:
    """Samples the processes of a home; the last interval of a process that exits is missed."""

    def __init__(self, home: Path, cost: Cost) -> None:
        self._home = str(home)
        self._cost = cost
        self._before = {process.pid: process.cpu_s for process in self._processes()}
        self._latest: dict[int, float] = {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    def sample(self) -> None:
        processes = self._processes()
        self._latest |= {process.pid: process.cpu_s for process in processes}
        used = {pid: cpu_s - self._before.get(pid, 0.0) for pid, cpu_s in self._latest.items()}
        self._cost.cpu_s = sum(used.values())
        self._cost.rss_mib = max(self._cost.rss_mib, sum(process.rss_mib for process in processes))
        if (pss_mib := sum(process.pss_mib for process in processes)) > self._cost.pss_mib:
            self._cost.pss_mib = pss_mib
            self._cost.parts_mib = {process.name: process.pss_mib for process in processes}

    def _processes(self) -> list[ProcessSample]:
        samples = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("YARD_HOME") == self._home:
                    times, full = process.cpu_times(), process.memory_full_info()
                    sizes = (full.rss / 2**20, full.pss / 2**20)
                    samples.append(
                        ProcessSample(process.pid, _name(process), times.user + times.system, *sizes)
                    )
        return samples


def _name(process: psutil.Process) -> str:
    """Its module and verb, or the program."""
    argv = " ".join(process.cmdline()).split()  # a forked service has its title in one argument
    return " ".join(argv[2:4]) if "-m" in argv[:2] else Path(argv[0]).name


async def main() -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory(prefix="yard-bench-", dir=os.environ.get("YARD_BENCH_FOLDER")) as folder:
        file = Path(folder) / "file"
        sha256 = _published(file)
        hub, url = await _started("bench.hub", str(file), sha256)
        try:
            # An installed package has its bytecode; compiling at every start takes time and memory.
            compiled = {"PYTHONDONTWRITEBYTECODE": ""}
            where = {"HF_ENDPOINT": url, "HF_HOME": f"{folder}/hf"}
            await _measure(Path(folder), {**os.environ, **compiled, **where})
        finally:
            hub.kill()
            await hub.wait()


def _published(path: Path) -> str:
    with path.open("wb") as file:
        file.write(_HEAD)
        if NOISE:
            for _ in range(GIB * 2**10 - 1):
                file.write(os.urandom(2**20))
        file.truncate(GIB * 2**30)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _measure(folder: Path, environment: dict[str, str]) -> None:
    """The routes take turns, so that other load on the machine affects all of them."""
    hf: list[Cost] = []
    synced: list[Cost] = []
    pulls: dict[int, list[Cost]] = {0: [], WATCHERS: []}
    async with _yard(folder / "home", environment) as (home, address):
        rest = await _rest(home)
        for _ in range(ROUNDS):
            for costs, cost in zip((hf, synced), await _hf(folder / "hf-download", environment), strict=True):
                costs.append(cost)
            for watchers, costs in pulls.items():
                async with _watchers(address, watchers):
                    costs.append(await _pull(home, environment))
    table = Table(title=f"A file of {GIB} GiB from a hub on loopback, median of {ROUNDS}")
    for column in ("route", "seconds", "ratio", "CPU s", "CPU ratio", "RSS MiB", "PSS MiB"):
        table.add_column(column, justify="left" if column == "route" else "right")
    routes = {f"yard pull, {watchers} dashboards": costs for watchers, costs in pulls.items()}
    for name, costs in {"hf download": hf, "hf download, and sync": synced, **routes}.items():
        _row(table, name, _median(costs), _median(hf))
    Console().print(table)
    Console().print(_memory({"at rest": rest, **{name: _median(costs) for name, costs in routes.items()}}))


async def _rest(home: Path) -> Cost:
    """The cost of an idle yard."""
    await asyncio.sleep(REST_S)
    cost = Cost()
    ProcessSampler(home, cost).sample()
    return cost


def _memory(costs: dict[str, Cost]) -> Table:
    """Memory by process, at the peak of the sum."""
    table = Table(title="PSS MiB by process")
    table.add_column("process")
    for name in costs:
        table.add_column(name, justify="right")
    names = dict.fromkeys(name for cost in costs.values() for name in sorted(cost.parts_mib))
    for name in names:
        parts = (cost.parts_mib.get(name) for cost in costs.values())
        table.add_row(name, *("" if part is None else f"{part:.1f}" for part in parts))
    table.add_section()
    table.add_row("together", *(f"{cost.pss_mib:.1f}" for cost in costs.values()))
    return table


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu_s for cost in costs),
        max(cost.rss_mib for cost in costs),
        max(cost.pss_mib for cost in costs),
        max(costs, key=lambda cost: cost.pss_mib).parts_mib,
    )


def _row(table: Table, name: str, cost: Cost, base: Cost) -> None:
    memory = (f"{cost.rss_mib:.0f}", f"{cost.pss_mib:.0f}") if cost.rss_mib else ("", "")
    ratios = f"{cost.seconds / base.seconds:.2f}", f"{cost.cpu_s / base.cpu_s:.2f}"
    table.add_row(name, f"{cost.seconds:.1f}", ratios[0], f"{cost.cpu_s:.1f}", ratios[1], *memory)


async def _hf(dest: Path, environment: dict[str, str]) -> tuple[Cost, Cost]:
    """What it takes, and what it takes until the disk has everything."""
    program = shutil.which("hf") or str(Path(sys.executable).with_name("hf"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = await _timed([program, "download", REPO, FILE, "--local-dir", str(dest)], environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    started_at = time.monotonic()
    await asyncio.to_thread(os.sync)
    synced_s = seconds + time.monotonic() - started_at
    shutil.rmtree(dest)
    shutil.rmtree(environment["HF_HOME"], ignore_errors=True)
    return Cost(seconds, cpu_s), Cost(synced_s, cpu_s)


async def _pull(home: Path, environment: dict[str, str]) -> Cost:
    argv = [sys.executable, "-m", "modelyard.cli", "pull", REPO]
    cost = Cost()
    sampling = asyncio.create_task(ProcessSampler(home, cost).run())
    cost.seconds = await _timed(argv, {**environment, "YARD_HOME": str(home)})
    sampling.cancel()
    shutil.rmtree(home / "models" / REPO)
    return cost


async def _timed(argv: list[str], environment: dict[str, str]) -> float:
    """The duration of a command; pending writes are synced first."""
    await asyncio.to_thread(os.sync)
    null = asyncio.subprocess.DEVNULL
    started_at = time.monotonic()
    process = await asyncio.create_subprocess_exec(*argv, env=environment, stdout=null)
    if await process.wait() != 0:
        raise RuntimeError(f"{argv} failed")
    return time.monotonic() - started_at


@contextlib.asynccontextmanager
async def _yard(home: Path, environment: dict[str, str]) -> AsyncIterator[tuple[Path, str]]:
    """`yard up` and the address of its gateway; interrupted at the end."""
    own = {**environment, "YARD_HOME": str(home), "YARD_PORT": "0", "YARD_NATS_PORT": "0"}
    argv = (sys.executable, "-m", "modelyard.cli", "up")
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, env=own, stdout=pipe, stderr=null)
    try:
        yield home, await _line_of(process, lambda line: (match := _URL.search(line)) and match[1])
    finally:
        process.send_signal(signal.SIGINT)
        await process.communicate()


@contextlib.asynccontextmanager
async def _watchers(address: str, count: int) -> AsyncIterator[None]:
    """`count` open dashboards in a process of their own."""
    if not count:
        yield
        return
    process, _ = await _started("bench.dashboard_clients", f"ws://{address}/ws", str(count))
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _started(module: str, *arguments: str) -> tuple[asyncio.subprocess.Process, str]:
    """A helper process and its first line."""
    argv = (sys.executable, "-m", module, *arguments)
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    return process, await _line_of(process, str.strip)


async def _line_of(process: asyncio.subprocess.Process, find: Callable[[str], str | None]) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        async for line in process.stdout:
            if value := find(line.decode()):
                return value
    raise RuntimeError("a process of the benchmark ended early")


if __name__ == "__main__":
    asyncio.run(main())
