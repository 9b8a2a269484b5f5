"""The cost of monitoring: 8 devices, without and with 50 open dashboards; a day of history."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from bench.yard import MeasuredYard, started_yard
from schemas.metrics import MetricsQuery, Sample
from services.monitor.metrics.history import MetricsHistory

DEVICES = 8
DASHBOARDS = 50
SERIES = 50
MEASURED_S = float(os.environ.get("YARD_BENCH_WATCH_S", "60"))
_CARD = """
[[devices]]
device = "SIM-{number}"
kind = "gpu"
name = "Simulated card"
memory_total_bytes = 85899345920
memory_used_bytes = [8589934592, 42949672960, 68719476736]
utilization_pct = [3, 60, 99, 80, 12]
temperature_c = [40, 55, 70, 66]
power_w = [80, 300, 650, 400]
power_limit_w = 700
fan_pct = [20, 60]
clock_mhz = [345, 1980]
memory_clock_mhz = 3201
pcie_generation = 5
pcie_width = 16
pcie_receive_bytes_s = [1000000, 4000000000]
pcie_transmit_bytes_s = [1000000, 2000000000]
processes = [{{ pid = {pid}, memory_bytes = 4294967296 }}]
"""


async def monitor_cost(console: Console) -> None:
    """Print two tables."""
    table = Table(title=f"The monitor with {DEVICES} devices once a second, over {MEASURED_S:.0f} s each")
    for column in (
        "dashboards open",
        "% of a core",
        "RSS MiB",
        "gateway: % of a core",
        "messages a dashboard",
    ):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        cards = Path(folder) / "cards.toml"
        cards.write_text("".join(_CARD.format(number=n, pid=os.getpid()) for n in range(DEVICES)))
        async with started_yard(YARD_SIMULATED_DEVICES=str(cards)) as yard:
            # The start is not part of the measurement.
            await asyncio.sleep(10)
            for count in (0, DASHBOARDS):
                async with dashboards(yard, count) as counts:
                    row = await _measured(yard)
                table.add_row(str(count), *row, f"{sum(counts) / count:.0f}" if count else "")
    console.print(table)
    console.print(_history())


async def _measured(yard: MeasuredYard) -> tuple[str, str, str]:
    monitor, gateway = yard.process("services.monitor"), yard.process("services.gateway")
    before, started_at = (_cpu_s(monitor), _cpu_s(gateway)), time.perf_counter()
    await asyncio.sleep(MEASURED_S)
    passed_s = time.perf_counter() - started_at
    monitor_pct, gateway_pct = (
        100 * (now - then) / passed_s
        for now, then in zip((_cpu_s(monitor), _cpu_s(gateway)), before, strict=True)
    )
    return f"{monitor_pct:.2f}", f"{monitor.memory_info().rss / 2**20:.1f}", f"{gateway_pct:.2f}"


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return used.user + used.system


@contextlib.asynccontextmanager
async def dashboards(yard: MeasuredYard, count: int) -> AsyncIterator[list[int]]:
    """`count` open pages; yields the messages that each received."""
    counts = [0] * count
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def receive(number: int) -> None:
            async with session.ws_connect(f"http://127.0.0.1:{yard.through.target.port}/ws") as socket:
                async for _ in socket:
                    counts[number] += 1

        receivers = [asyncio.create_task(receive(number)) for number in range(count)]
        yield counts
        for task in receivers:
            task.cancel()
        await asyncio.gather(*receivers, return_exceptions=True)


def _history() -> Table:
    """A day of samples, and the duration of queries of all of it."""
    table = Table(title=f"A day of {SERIES} series, sampled every 10 s")
    for column in ("query", "ms", "points", "kB of reply"):
        table.add_column(column, justify="left" if column == "query" else "right")
    history, now = day_of_history()
    for name, step_s in (("a day, default step", None), ("a day in steps of 10 minutes", 600.0)):
        query = MetricsQuery(names=("yard_device_temperature_celsius",), since=now - 86400, step_s=step_s)
        times_s = []
        for _ in range(5):
            started_at = time.perf_counter()
            answer = history.query(query, now)
            encoded = msgspec.json.encode(answer)
            times_s.append(time.perf_counter() - started_at)
        points = len(answer.series[0].avg)
        table.add_row(
            name,
            f"{1000 * min(times_s):.1f}",
            f"{len(answer.series)} x {points}",
            f"{len(encoded) / 1e3:.0f}",
        )
    return table


def day_of_history() -> tuple[MetricsHistory, float]:
    """Every series with a sample every ten seconds of a day."""
    history, now = MetricsHistory(), float(int(time.time()) // 300 * 300)
    labels = [{"node": "n", "device": f"d{number}"} for number in range(SERIES)]
    for step in range(8640):
        at = now - 86400 + 10 * step
        history.add(
            at,
            [
                Sample(
                    name="yard_device_temperature_celsius", value=40.0 + (step * (n + 1)) % 37 / 3, labels=one
                )
                for n, one in enumerate(labels)
            ],
        )
    return history, now


if __name__ == "__main__":
    asyncio.run(monitor_cost(Console()))
