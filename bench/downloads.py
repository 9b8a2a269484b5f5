"""`make bench-downloads`: `yard pull` and `hf download` of the same file from the same hub, in one run.

The file is sparse at the hub, so that no disk is read; with YARD_BENCH_NOISE=1 it is full of noise. `yard
pull` compares the sha256 and has the disk confirm every byte, `hf download` does neither; the second row is
what that takes until the disk has everything. YARD_BENCH_FOLDER says where (default: the
folder for temporary files), YARD_BENCH_GIB how much (default 5), YARD_BENCH_ROUNDS how often (default 2).
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
LOOK_EVERY_S = 0.1
REST_S = 3.0
"""After its start a yard is soon at rest."""
_URL = re.compile(r"OpenAI base URL\s+http://(127\.0\.0\.1:\d+)/v1")
_HEAD = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 20) + b"general.architecture"


@dataclass
class Cost:
    """What one way has taken: time, processor time, and the most memory of all its processes together."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    rss_mib: float = 0.0
    pss_mib: float = 0.0
    """As RSS, with shared pages counted once."""
    parts_mib: dict[str, float] = field(default_factory=dict)
    """What `pss_mib` is made of, by process."""


class Seen(NamedTuple):
    """A process of a home at one moment."""

    pid: int
    name: str
    cpu_s: float
    rss_mib: float
    pss_mib: float


class Watch:
    """Looks at the processes of a home while something runs; what ends between two looks is nearly seen."""

    def __init__(self, home: Path, cost: Cost) -> None:
        self._home = str(home)
        self._cost = cost
        self._before = {each.pid: each.cpu_s for each in self._look()}
        self._latest: dict[int, float] = {}

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            self.note()
            await asyncio.sleep(LOOK_EVERY_S)

    def note(self) -> None:
        """Look once."""
        seen = self._look()
        self._latest |= {each.pid: each.cpu_s for each in seen}
        used = {pid: cpu_s - self._before.get(pid, 0.0) for pid, cpu_s in self._latest.items()}
        self._cost.cpu_s = sum(used.values())
        self._cost.rss_mib = max(self._cost.rss_mib, sum(each.rss_mib for each in seen))
        if (pss_mib := sum(each.pss_mib for each in seen)) > self._cost.pss_mib:
            self._cost.pss_mib = pss_mib
            self._cost.parts_mib = {each.name: each.pss_mib for each in seen}

    def _look(self) -> list[Seen]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("YARD_HOME") == self._home:
                    times, full = process.cpu_times(), process.memory_full_info()
                    sizes = (full.rss / 2**20, full.pss / 2**20)
                    found.append(Seen(process.pid, _name(process), times.user + times.system, *sizes))
        return found


def _name(process: psutil.Process) -> str:
    """Its module and verb, or the program."""
    words = process.cmdline()
    return " ".join(words[2:4]) if "-m" in words[:2] else Path(words[0]).name


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
    """The ways take turns, so that a busy moment of the machine meets all of them."""
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
    for column in ("way", "seconds", "ratio", "CPU s", "CPU ratio", "RSS MiB", "PSS MiB"):
        table.add_column(column, justify="left" if column == "way" else "right")
    ways = {f"yard pull, {watchers} dashboards": costs for watchers, costs in pulls.items()}
    for name, costs in {"hf download": hf, "hf download, and sync": synced, **ways}.items():
        _row(table, name, _median(costs), _median(hf))
    Console().print(table)
    Console().print(_memory({"at rest": rest, **{name: _median(costs) for name, costs in ways.items()}}))


async def _rest(home: Path) -> Cost:
    """What a yard takes that has nothing to do."""
    await asyncio.sleep(REST_S)
    cost = Cost()
    Watch(home, cost).note()
    return cost


def _memory(costs: dict[str, Cost]) -> Table:
    """Which process takes what, at the moment when all took most."""
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
    began = time.monotonic()
    await asyncio.to_thread(os.sync)
    synced_s = seconds + time.monotonic() - began
    shutil.rmtree(dest)
    shutil.rmtree(environment["HF_HOME"], ignore_errors=True)
    return Cost(seconds, cpu_s), Cost(synced_s, cpu_s)


async def _pull(home: Path, environment: dict[str, str]) -> Cost:
    words = [sys.executable, "-m", "modelyard.cli", "pull", REPO]
    cost = Cost()
    watching = asyncio.create_task(Watch(home, cost).keep())
    cost.seconds = await _timed(words, {**environment, "YARD_HOME": str(home)})
    watching.cancel()
    shutil.rmtree(home / "models" / REPO)
    return cost


async def _timed(argv: list[str], environment: dict[str, str]) -> float:
    """How long a command takes; what an earlier one has left to write is written first."""
    await asyncio.to_thread(os.sync)
    nothing = asyncio.subprocess.DEVNULL
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(*argv, env=environment, stdout=nothing)
    if await process.wait() != 0:
        raise RuntimeError(f"{argv} failed")
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def _yard(home: Path, environment: dict[str, str]) -> AsyncIterator[tuple[Path, str]]:
    """`yard up`, and where its gateway listens; ended with Ctrl-C."""
    own = {**environment, "YARD_HOME": str(home), "YARD_PORT": "0", "YARD_NATS_PORT": "0"}
    argv = (sys.executable, "-m", "modelyard.cli", "up")
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, env=own, stdout=pipe, stderr=nothing)
    try:
        yield home, await _line_of(process, lambda line: (found := _URL.search(line)) and found[1])
    finally:
        process.send_signal(signal.SIGINT)
        await process.communicate()


@contextlib.asynccontextmanager
async def _watchers(address: str, count: int) -> AsyncIterator[None]:
    """So many open dashboards in a process of their own."""
    if not count:
        yield
        return
    process, _ = await _started("bench.watchers", f"ws://{address}/ws", str(count))
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _started(module: str, *words: str) -> tuple[asyncio.subprocess.Process, str]:
    """A helper process and its first line."""
    argv = (sys.executable, "-m", module, *words)
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    return process, await _line_of(process, str.strip)


async def _line_of(process: asyncio.subprocess.Process, find: Callable[[str], str | None]) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        async for line in process.stdout:
            if found := find(line.decode()):
                return found
    raise RuntimeError("a process of the benchmark ended early")


if __name__ == "__main__":
    asyncio.run(main())
