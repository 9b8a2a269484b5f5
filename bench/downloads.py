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
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.hub import FILE, REPO

GIB = int(os.environ.get("YARD_BENCH_GIB", "5"))
ROUNDS = int(os.environ.get("YARD_BENCH_ROUNDS", "2"))
NOISE = bool(os.environ.get("YARD_BENCH_NOISE"))
WATCHERS = 50
_URL = re.compile(r"OpenAI base URL\s+http://(127\.0\.0\.1:\d+)/v1")
_HEAD = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 20) + b"general.architecture"


class Memory:
    """The most that a home's processes have taken together, and that with shared pages counted once."""

    def __init__(self, home: Path) -> None:
        self._home = str(home)
        self.rss_mib = 0.0
        self.pss_mib = 0.0

    async def watch(self) -> None:
        """Look twice a second, until cancelled."""
        while True:
            found = [each for process in psutil.process_iter() if (each := self._of(process))]
            self.rss_mib = max(self.rss_mib, sum(rss for rss, _ in found) / 2**20)
            self.pss_mib = max(self.pss_mib, sum(pss for _, pss in found) / 2**20)
            await asyncio.sleep(0.5)

    def _of(self, process: psutil.Process) -> tuple[int, int] | None:
        with contextlib.suppress(psutil.Error):
            if process.environ().get("YARD_HOME") == self._home:
                full = process.memory_full_info()
                return full.rss, full.pss
        return None


async def main() -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory(prefix="yard-bench-", dir=os.environ.get("YARD_BENCH_FOLDER")) as folder:
        file = Path(folder) / "file"
        sha256 = _published(file)
        hub, url = await _started("bench.hub", str(file), sha256)
        try:
            await _measure(Path(folder), {**os.environ, "HF_ENDPOINT": url, "HF_HOME": f"{folder}/hf"})
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
    hf_s: list[float] = []
    synced_s: list[float] = []
    pull_s: dict[int, list[float]] = {0: [], WATCHERS: []}
    memory: dict[int, Memory] = {}
    async with _yard(folder / "home", environment) as (home, address):
        for _ in range(ROUNDS):
            seconds_and_sync = await _hf(folder / "hf-download", environment)
            hf_s.append(seconds_and_sync[0])
            synced_s.append(sum(seconds_and_sync))
            for watchers, seconds in pull_s.items():
                memory[watchers] = memory.get(watchers) or Memory(home)
                async with _watchers(address, watchers):
                    seconds.append(await _pull(home, environment, memory[watchers]))
    table = Table(title=f"A file of {GIB} GiB from a hub on loopback, median of {ROUNDS}")
    for column in ("way", "seconds", "MB/s", "ratio", "RSS MiB", "PSS MiB"):
        table.add_column(column, justify="left" if column == "way" else "right")
    base_s = statistics.median(hf_s)
    _row(table, "hf download", base_s, base_s)
    _row(table, "hf download, and sync", statistics.median(synced_s), base_s)
    for watchers, seconds in pull_s.items():
        name = f"yard pull, {watchers} dashboards"
        _row(table, name, statistics.median(seconds), base_s, memory[watchers])
    Console().print(table)


def _row(table: Table, name: str, seconds: float, base_s: float, memory: Memory | None = None) -> None:
    taken = (f"{memory.rss_mib:.0f}", f"{memory.pss_mib:.0f}") if memory else ("", "")
    speed = GIB * 2**30 / seconds / 1e6
    table.add_row(name, f"{seconds:.1f}", f"{speed:.0f}", f"{seconds / base_s:.2f}", *taken)


async def _hf(dest: Path, environment: dict[str, str]) -> tuple[float, float]:
    """How long it takes, and how long the disk takes after it."""
    program = shutil.which("hf") or str(Path(sys.executable).with_name("hf"))
    seconds = await _timed([program, "download", REPO, FILE, "--local-dir", str(dest)], environment)
    began = time.monotonic()
    await asyncio.to_thread(os.sync)
    sync_s = time.monotonic() - began
    shutil.rmtree(dest)
    shutil.rmtree(environment["HF_HOME"], ignore_errors=True)
    return seconds, sync_s


async def _pull(home: Path, environment: dict[str, str], memory: Memory) -> float:
    words = [sys.executable, "-m", "modelyard.cli", "pull", REPO]
    watching = asyncio.create_task(memory.watch())
    seconds = await _timed(words, {**environment, "YARD_HOME": str(home)})
    watching.cancel()
    shutil.rmtree(home / "models" / REPO)
    return seconds


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
