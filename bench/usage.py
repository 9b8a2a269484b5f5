"""A million usage records: the time of queries, compared with a sum over all records.

`python -m bench.usage` does this alone.
"""

import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from schemas.usage import Dimension, UsageQuery, UsageStep
from services.monitor.calendar import day_of
from services.monitor.price_book import PriceBook
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.report import resolve_filter, usage_report
from services.monitor.usage.rollup_updates import rebuild_sums
from services.monitor.usage.rollups import quarter_of
from services.monitor.usage.series import UsageSeries
from services.monitor.usage.store import UsageStore

RECORDS = 1_000_000
BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
END = 1_790_000_000.0
DAY_S = 86400.0
_RUNS = 9
_FULL_SUM = """
SELECT model, COUNT(*), SUM(prompt_tokens), SUM(cached_tokens), SUM(completion_tokens), SUM(cost_whole),
    SUM(cost_pico) FROM requests JOIN series USING (series) GROUP BY model
"""


def main(console: Console) -> None:
    """Print a table for records of a month and of a year."""
    for days in (30, 365):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "usage.sqlite"
            _fill(path, days)
            console.print(_measured(path, days))


def _fill(path: Path, days: int) -> None:
    """Records of ten models, eight keys and two nodes; one request in twenty failed."""
    store = UsageStore(path, BERLIN, lambda: PriceBook({}))
    store.db.execute("PRAGMA synchronous = OFF")
    with store.transaction():
        marks = ", ".join("?" * 13)
        store.db.executemany(
            f"INSERT INTO requests VALUES ({marks})",  # noqa: S608 - question marks
            _rows(store, days),
        )
        rebuild_sums(store.db, store.horizon, store.tz)
    store.close()


def _rows(store: UsageStore, days: int) -> Iterator[tuple[object, ...]]:
    rng = random.Random(1)  # noqa: S311 - the same records in every run
    numbers = [
        store.series.number(
            UsageSeries(f"m{model}", f"k{key}", "chat", f"n{node}", "interactive", status, outcome)
        )
        for status, outcome in [(200, "ok")] * 19 + [(502, "failed")]
        for model in range(10)
        for key in range(8)
        for node in range(2)
    ]
    for number in range(RECORDS):
        at = END - rng.random() * days * DAY_S
        sizes = (rng.randrange(9000), rng.randrange(900), rng.randrange(900), 0, rng.randrange(10**9))
        bins = (int(rng.gauss(170, 15)), int(rng.gauss(100, 15)))
        yield f"r{number}", at, quarter_of(at), day_of(at, BERLIN), rng.choice(numbers), *sizes, *bins, "{}"


def _measured(path: Path, days: int) -> Table:
    db, reader = sqlite3.connect(path), UsageReader(path, BERLIN)
    since = END - days * DAY_S / 2 + 1234.5
    queries = {
        "by model, all time": UsageQuery(),
        "by model and key, from any moment": UsageQuery(by=(Dimension.MODEL, Dimension.KEY), since=since),
        "by model and day": UsageQuery(step=UsageStep.DAY, since=END - days * DAY_S, until=END),
        "one key by hour, a week": UsageQuery(
            by=(), key="k1", step=UsageStep.HOUR, since=END - 7 * DAY_S, until=END
        ),
        "one hour by minute": UsageQuery(by=(), step=UsageStep.MINUTE, since=END - 3600, until=END),
        "by model and day of another time zone": UsageQuery(
            step=UsageStep.DAY, since=END - days * DAY_S, until=END, tz=NEW_YORK.key
        ),
        "by model with latencies": UsageQuery(latency=True),
    }
    table = Table(title=f"A million usage records of {days} days")
    for column in ("query", "ms", "rows", "times faster than a full sum"):
        table.add_column(column, justify="left" if column == "query" else "right")
    whole_ms = _median_ms(lambda: db.execute(_FULL_SUM).fetchall(), 3)
    table.add_row("full sum over all records", f"{whole_ms:.0f}", "10", "1")
    for name, query in queries.items():
        resolved = resolve_filter(query, END, BERLIN, END)
        run = partial(usage_report, reader, query, resolved, now=END, currency="EUR")
        took_ms = _median_ms(run, _RUNS)
        table.add_row(name, f"{took_ms:.1f}", str(len(run().rows)), f"{whole_ms / took_ms:.0f}")
    reader.close()
    db.close()
    return table


def _median_ms(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    main(Console())
