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

from bench.client import Samples, Target, load
from bench.yard import MeasuredYard, measured_yard

PACE_TOKENS_S = 100
_STREAMS = 32


async def main() -> None:
    """Print three tables."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        fast, paced = _launcher(Path(folder), 0), _launcher(Path(folder), PACE_TOKENS_S)
        async with measured_yard(16, YARD_LLAMA_SERVER=str(fast)) as yard:
            await short(console, yard, "A synthetic engine, one token an answer", (2000, 6400))
            await burst(console, yard)
        async with measured_yard(_STREAMS, YARD_LLAMA_SERVER=str(paced)) as yard:
            await streams(console, yard)
    async with measured_yard(4) as yard:
        await short(console, yard, "llama.cpp with a tiny model, one token an answer", (300, 640))


def _launcher(folder: Path, pace: int) -> Path:
    """The synthetic engine as one program, since that is what stands for a llama-server."""
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


async def short(console: Console, yard: MeasuredYard, title: str, requests: tuple[int, int]) -> None:
    """Many short requests, by one client and by 32."""
    table = _table(
        title, ("clients", "way", "p50 ms", "p99 ms", "added p50 ms", "requests/s", "CPU us/request")
    )
    for clients, count in zip((1, _STREAMS), requests, strict=True):
        base: Samples | None = None
        for target in (yard.direct, yard.through):
            seen, cpu_s = await _measured(yard, target, clients, count, 1, stream=False)
            base = base or seen
            added = seen.percentile(0.5) - base.percentile(0.5)
            table.add_row(
                str(clients),
                target.name,
                f"{seen.percentile(0.5):.2f}",
                f"{seen.percentile(0.99):.2f}",
                f"{added:.2f}",
                f"{seen.requests_per_s:.0f}",
                f"{cpu_s / count * 1e6:.0f}",
            )
    console.print(table)


async def burst(console: Console, yard: MeasuredYard) -> None:
    """Long answers as fast as they come."""
    table = _table("A synthetic engine, 16 streams of 500 tokens at once", _STREAM_COLUMNS)
    for target in (yard.direct, yard.through):
        seen, cpu_s = await _measured(yard, target, 16, 64, 500, stream=True)
        _add_stream(table, target, seen, cpu_s, yard)
    console.print(table)


async def streams(console: Console, yard: MeasuredYard) -> None:
    """Answers at the pace of a real model."""
    table = _table(f"{_STREAMS} clients, an engine with {PACE_TOKENS_S} tokens/s a stream", _STREAM_COLUMNS)
    for target in (yard.direct, yard.through):
        seen, cpu_s = await _measured(yard, target, _STREAMS, _STREAMS, 300, stream=True)
        _add_stream(table, target, seen, cpu_s, yard)
    console.print(table)


_STREAM_COLUMNS = ("way", "first token p50 ms", "tokens/s", "CPU us/token", "memory MiB")


def _add_stream(table: Table, target: Target, seen: Samples, cpu_s: float, yard: MeasuredYard) -> None:
    table.add_row(
        target.name,
        f"{seen.first_p50_ms:.1f}",
        f"{seen.tokens_per_s:.0f}",
        f"{cpu_s / max(1, seen.tokens) * 1e6:.1f}",
        f"{yard.usage().rss_mib:.0f}",
    )


async def _measured(
    yard: MeasuredYard, target: Target, clients: int, requests: int, max_tokens: int, *, stream: bool
) -> tuple[Samples, float]:
    await load(target, clients=clients, requests=clients, max_tokens=1, stream=stream)
    before = yard.usage().cpu_s
    seen = await load(target, clients=clients, requests=requests, max_tokens=max_tokens, stream=stream)
    return seen, yard.usage().cpu_s - before


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == "way" else "right")
    return table


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "110")
    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())
