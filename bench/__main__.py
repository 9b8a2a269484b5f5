"""`make bench`: the engine alone and the same engine through the yard, in one run on one machine."""

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import usage
from bench.client import Samples, load
from bench.monitor_cost import monitor_cost
from bench.other_servers import litellm, llama_router
from bench.route import Route
from bench.store_scan import store_scan
from bench.yard import MeasuredYard, measured_yard

PACE_TOKENS_S = 100
_STREAMS = 32


async def main() -> None:
    """Print the tables."""
    console = Console()
    store_scan(console)
    usage.main(console)
    await monitor_cost(console)
    with tempfile.TemporaryDirectory() as folder:
        fast, paced = _launcher(Path(folder), 0), _launcher(Path(folder), PACE_TOKENS_S)
        async with measured_yard(16, YARD_LLAMA_SERVER=str(fast)) as yard:
            async with litellm(yard.direct.target.port) as others:
                routes = (yard.direct, yard.through, *others)
                await short(console, routes, "A synthetic engine, one token an answer", (2000, 6400))
            await burst(console, yard)
        async with measured_yard(_STREAMS, YARD_LLAMA_SERVER=str(paced)) as yard:
            await streams(console, yard)
    async with (
        measured_yard(4) as yard,
        litellm(yard.direct.target.port) as proxies,
        llama_router(yard.models) as routers,
    ):
        routes = (yard.direct, yard.through, *proxies, *routers)
        await short(console, routes, "llama.cpp with a tiny model, one token an answer", (300, 640))


def _launcher(folder: Path, pace: int) -> Path:
    """The synthetic engine as a single program, in place of a llama-server."""
    path = folder / f"engine-{pace}"
    path.write_text(
        f"#!{sys.executable}\n"
        f"import os, sys\n"
        f"os.environ['YARD_BENCH_PACE_TOKENS_S'] = '{pace}'\n"
        f"os.chdir({str(Path.cwd())!r})\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'bench.synthetic_engine', *sys.argv[1:]])\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def short(console: Console, routes: Sequence[Route], title: str, requests: tuple[int, int]) -> None:
    """Many short requests, by one client and by 32; the first route is the baseline."""
    table = _table(title, _SHORT_COLUMNS)
    for clients, count in zip((1, _STREAMS), requests, strict=True):
        base: Samples | None = None
        for route in routes:
            samples, cpu_s = await _measured(route, clients, count, 1, stream=False)
            base = base or samples
            times = [
                f"{time:.2f}"
                for share in (0.5, 0.99)
                for time in (samples.percentile(share), samples.percentile(share) - base.percentile(share))
            ]
            cost = "" if route is routes[0] else f"{cpu_s / count * 1e6:.0f}"
            memory = f"{route.usage().rss_mib:.0f}"
            table.add_row(
                str(clients), route.target.name, *times, f"{samples.requests_per_s:.0f}", cost, memory
            )
    console.print(table)


_SHORT_COLUMNS = (
    *("clients", "route", "p50 ms", "added p50", "p99 ms", "added p99"),
    *("requests/s", "CPU us/request", "memory MiB"),
)


async def burst(console: Console, yard: MeasuredYard) -> None:
    """Long answers at full speed."""
    table = _table("A synthetic engine, 16 streams of 500 tokens at once", _STREAM_COLUMNS)
    for route in (yard.direct, yard.through):
        _add_stream(table, route, *await _measured(route, 16, 64, 500, stream=True))
    console.print(table)


async def streams(console: Console, yard: MeasuredYard) -> None:
    """Answers at the pace of a real model."""
    table = _table(f"{_STREAMS} clients, an engine with {PACE_TOKENS_S} tokens/s a stream", _STREAM_COLUMNS)
    for route in (yard.direct, yard.through):
        _add_stream(table, route, *await _measured(route, _STREAMS, _STREAMS, 300, stream=True))
    console.print(table)


_STREAM_COLUMNS = ("route", "first token p50 ms", "tokens/s", "CPU us/token", "memory MiB")


def _add_stream(table: Table, route: Route, samples: Samples, cpu_s: float) -> None:
    table.add_row(
        route.target.name,
        f"{samples.first_p50_ms:.1f}",
        f"{samples.tokens_per_s:.0f}",
        f"{cpu_s / max(1, samples.tokens) * 1e6:.1f}",
        f"{route.usage().rss_mib:.0f}",
    )


async def _measured(
    route: Route, clients: int, requests: int, max_tokens: int, *, stream: bool
) -> tuple[Samples, float]:
    await load(route.target, clients=clients, requests=clients, max_tokens=1, stream=stream)
    before = route.usage().cpu_s
    samples = await load(
        route.target, clients=clients, requests=requests, max_tokens=max_tokens, stream=stream
    )
    return samples, route.usage().cpu_s - before


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == "route" else "right")
    return table


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "110")
    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())
