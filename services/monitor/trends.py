"""Trends: forecasts of usage by weekday means, and of full disks by the Theil-Sen line.

The error of such forecasts in the past gives their interval. The Theil-Sen line is the median of the slopes
between all pairs of samples: a temporary file hardly moves it, a disk that fills day by day does.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from modelyard.bus import logs
from modelyard.bus.records import BucketCache
from schemas.devices import Device
from schemas.metrics import Sample
from schemas.storage import DiskFull
from schemas.usage import Forecast, ForecastQuery, UsageQuery, UsageRow, UsageStep, UsageUnit
from services.monitor.calendar import day_of, midnight, period_of
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.store import UsageStore

log = logs.get(__name__)

METHOD = "mean of the same weekday in the last 8 weeks; 90 % interval from its past errors"
WEEKS = 8
_Z_90 = 1.645
"""Standard deviations around the mean that contain nine tenths of a normal distribution."""
DAY_S = 86400.0
_HOUR_S = 3600
SAMPLE_S = 600.0
HOME_DISK = "YARD_HOME"
"""The name of the disk of another node's home."""
DISK_WINDOW_S = 14 * DAY_S
"""How far back samples of a disk are used."""
MIN_SPAN_S = 6 * 3600.0
"""Samples over a shorter time give no forecast of days."""
MAX_SAMPLES = 200
"""More are thinned out evenly: pairs grow with the square."""


class PeriodForecast(NamedTuple):
    expected: float
    low: float
    high: float
    based_on_days: int


def forecast_days(past: Mapping[int, float], first: int, days: float) -> PeriodForecast:
    """Forecast `days` from ordinal `first`, the last perhaps in part, from whole days of the past."""
    amounts = {day: value for day, value in past.items() if first - 7 * WEEKS <= day < first}
    whole, part = int(days), days - int(days)
    ahead = [(first + number, 1.0) for number in range(whole)] + ([(first + whole, part)] if part else [])
    expected = sum(share * _expected(amounts, day) for day, share in ahead)
    weight = sum(share for _, share in ahead)
    spread = _Z_90 * _error(amounts) * math.sqrt(weight + weight**2 / max(1, len(amounts)))
    return PeriodForecast(expected, max(0.0, expected - spread), expected + spread, len(amounts))


def _expected(amounts: Mapping[int, float], day: int) -> float:
    """The mean of this weekday; with fewer than two of it, of all days."""
    same = [value for past, value in amounts.items() if past % 7 == day % 7]
    used = same if len(same) > 1 else list(amounts.values())
    return sum(used) / len(used) if used else 0.0


def _error(amounts: Mapping[int, float]) -> float:
    """Root mean square error of each day against its forecast from all others."""
    squares = []
    for day, value in amounts.items():
        others = {past: other for past, other in amounts.items() if past != day}
        if others:
            squares.append((value - _expected(others, day)) ** 2)
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0


class DiskForecast(NamedTuple):
    """Days until nothing is free; None: not on the present trend."""

    days: float | None
    soonest: float | None
    latest: float | None


def days_until_full(samples: Sequence[tuple[float, float]]) -> DiskForecast:
    """From samples of (unix seconds, free bytes). The interval: slopes of the middle nine tenths of pairs."""
    thinned = _thinned(sorted(samples))
    if len(thinned) < 3 or thinned[-1][0] - thinned[0][0] < MIN_SPAN_S:
        return DiskForecast(None, None, None)
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in combinations(thinned, 2)
        if later[0] > earlier[0]
    )
    free = thinned[-1][1]
    low, high = slopes[len(slopes) // 20], slopes[-1 - len(slopes) // 20]
    return DiskForecast(_days(free, statistics.median(slopes)), _days(free, low), _days(free, high))


def _days(free: float, slope: float) -> float | None:
    return round(free / -slope / DAY_S, 2) if slope < 0 else None


def _thinned(samples: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    step = -(-len(samples) // MAX_SAMPLES) or 1
    # Counted from the newest, which has the free bytes of now.
    return samples[::-1][::step][::-1]


async def forecast(usage: UsageDatabase, query: ForecastQuery) -> Forecast:
    now = time.time()
    by_day = UsageQuery(model=query.model, key=query.key, tz=query.tz, step=UsageStep.DAY, by=())
    tz = usage.resolve(by_day).tz
    starts_at, ends_at = period_of(now, query.period, tz)
    today = day_of(now, tz)
    since = midnight(min(today - 7 * WEEKS, day_of(starts_at, tz)), tz)
    report = await usage.report(msgspec.structs.replace(by_day, since=since, until=ends_at))
    amounts = {day_of(row.at, tz): _amount(row, query.unit) for row in report.rows if row.at is not None}
    oldest = await usage.read(UsageReader.oldest)
    first = today if oldest is None else max(day_of(oldest, tz) + 1, day_of(since, tz))
    past = {day: amounts.get(day, 0.0) for day in range(first, today)}
    rest = forecast_days(past, today, (ends_at - now) / DAY_S)
    so_far = sum(value for day, value in amounts.items() if midnight(day, tz) >= starts_at)
    return Forecast(
        so_far=so_far,
        expected=so_far + rest.expected,
        low=so_far + rest.low,
        high=so_far + rest.high,
        ends_at=ends_at,
        based_on_days=rest.based_on_days,
        method=METHOD,
    )


def _amount(row: UsageRow, unit: UsageUnit) -> float:
    # A forecast needs no exact decimals.
    match unit:
        case UsageUnit.MONEY:
            return float(row.cost)
        case UsageUnit.TOKENS:
            return float(row.prompt_tokens + row.completion_tokens)
        case UsageUnit.REQUESTS:
            return float(row.requests)


class DiskTrends:
    """Stores the free bytes of the yard's disks by the hour, and forecasts when they are full."""

    def __init__(
        self, usage: UsageDatabase, devices: BucketCache[Device], node: str, folders: tuple[Path, ...]
    ) -> None:
        self.samples: tuple[Sample, ...] = ()
        """The forecasts as metrics; a disk that does not fill up has none."""
        self._usage = usage
        self._devices = devices
        self._node = node
        self._folders = folders

    async def run(self) -> None:
        while True:
            for folder in self._folders:
                try:
                    usage = await asyncio.to_thread(psutil.disk_usage, str(folder))
                    await self.store(self._node, str(folder), time.time(), usage.free, usage.total)
                except Exception:
                    log.exception("disk_sample_failed", folder=str(folder))
            try:
                await self._store_other_nodes()
                forecasts = await self.forecasts()
                self.samples = tuple(_sample(disk) for disk in forecasts if disk.days is not None)
            except Exception:
                # A full disk, for example; the next round may succeed.
                log.exception("disk_forecasts_failed")
            await asyncio.sleep(SAMPLE_S)

    async def _store_other_nodes(self) -> None:
        """Other nodes publish the disk of their YARD_HOME with their host."""
        for device in tuple(self._devices.values.values()):
            host = device.host
            if host is None or host.disk_free_bytes is None or host.disk_total_bytes is None:
                continue
            if device.node != self._node:
                await self.store(
                    device.node, HOME_DISK, time.time(), host.disk_free_bytes, host.disk_total_bytes
                )

    async def store(self, node: str, disk: str, at: float, free_bytes: int, total_bytes: int) -> None:
        """Store a sample; the last of an hour replaces the others."""
        await self._usage.write(_insert_sample, (node, disk, int(at) // _HOUR_S, free_bytes, total_bytes))

    async def forecasts(self) -> tuple[DiskFull, ...]:
        return await self._usage.read(_disk_forecasts, time.time() - DISK_WINDOW_S)


def _sample(disk: DiskFull) -> Sample:
    labels = {"node": disk.node, "disk": disk.disk}
    return Sample(name="yard_disk_days_until_full", value=disk.days or 0.0, labels=labels)


def _insert_sample(store: UsageStore, row: tuple[str, str, int, int, int]) -> None:
    with store.transaction():
        store.db.execute("INSERT OR REPLACE INTO disks VALUES (?, ?, ?, ?, ?)", row)


def _disk_forecasts(reader: UsageReader, since: float) -> tuple[DiskFull, ...]:
    rows = reader.db.execute(
        "SELECT node, disk, hour, free_bytes, total_bytes FROM disks WHERE hour >= ? ORDER BY hour",
        (since // _HOUR_S,),
    ).fetchall()
    forecasts = []
    for node, disk in sorted({(row[0], row[1]) for row in rows}):
        samples = [row[2:] for row in rows if row[:2] == (node, disk)]
        full = days_until_full([(hour * _HOUR_S, free) for hour, free, _ in samples])
        forecasts.append(
            DiskFull(
                node=node,
                disk=disk,
                free_bytes=samples[-1][1],
                total_bytes=samples[-1][2],
                days=full.days,
                soonest_days=full.soonest,
                latest_days=full.latest,
            )
        )
    return tuple(forecasts)
