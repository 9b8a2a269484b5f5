"""Forecasts of use and spend, and hourly samples of disks."""

import asyncio
import time
from pathlib import Path

import msgspec
import psutil

from modelyard.bus import logs
from modelyard.bus.records import BucketCache
from schemas.devices import Device
from schemas.metrics import Sample
from schemas.storage import DiskFull
from schemas.usage import Forecast, ForecastQuery, UsageQuery, UsageRow, UsageStep, UsageUnit
from services.monitor.calendar import day_of, midnight, period_of
from services.monitor.trends.disks import DAY_S, days_until_full
from services.monitor.trends.forecast import METHOD, WEEKS, outlook
from services.monitor.usage.keeper import UsageKeeper
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.store import UsageStore

log = logs.get(__name__)

EVERY_S = 600.0
_HOUR_S = 3600
HOME_DISK = "YARD_HOME"
"""What the disk of another node's home is called."""
LOOK_BACK_S = 14 * DAY_S
"""How far back a disk's samples say where it is going."""


async def forecast(usage: UsageKeeper, asked: ForecastQuery) -> Forecast:
    """Answer `usage.forecast`."""
    now = time.time()
    day = UsageQuery(model=asked.model, key=asked.key, tz=asked.tz, step=UsageStep.DAY, by=())
    tz = usage.question(day).tz
    starts_at, ends_at = period_of(now, asked.period, tz)
    today = day_of(now, tz)
    since = midnight(min(today - 7 * WEEKS, day_of(starts_at, tz)), tz)
    report = await usage.report(msgspec.structs.replace(day, since=since, until=ends_at))
    by_day = {day_of(row.at, tz): amount(row, asked.unit) for row in report.rows if row.at is not None}
    first = await usage.read(UsageReader.oldest)
    begun = today if first is None else max(day_of(first, tz) + 1, day_of(since, tz))
    past = {each: by_day.get(each, 0.0) for each in range(begun, today)}
    rest = outlook(past, today, (ends_at - now) / DAY_S)
    so_far = sum(value for each, value in by_day.items() if midnight(each, tz) >= starts_at)
    return Forecast(
        so_far=so_far,
        expected=so_far + rest.expected,
        low=so_far + rest.low,
        high=so_far + rest.high,
        ends_at=ends_at,
        based_on_days=rest.based_on_days,
        method=METHOD,
    )


def amount(row: UsageRow, unit: UsageUnit) -> float:
    """What a row says in a unit; a forecast needs no exact decimals."""
    match unit:
        case UsageUnit.MONEY:
            return float(row.cost)
        case UsageUnit.TOKENS:
            return float(row.prompt_tokens + row.completion_tokens)
        case UsageUnit.REQUESTS:
            return float(row.requests)


class Disks:
    """Keeps how much is free where the yard's files are, by the hour."""

    def __init__(
        self, usage: UsageKeeper, devices: BucketCache[Device], node: str, folders: tuple[Path, ...]
    ) -> None:
        self.samples: tuple[Sample, ...] = ()
        """Of the last look; a disk that does not fill up has none."""
        self._usage = usage
        self._devices = devices
        self._node = node
        self._folders = folders

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            for folder in self._folders:
                try:
                    usage = await asyncio.to_thread(psutil.disk_usage, str(folder))
                    await self.note(self._node, str(folder), time.time(), usage.free, usage.total)
                except Exception:
                    log.exception("disk_not_sampled", folder=str(folder))
            try:
                await self._look_elsewhere()
                self.samples = tuple(_days(each) for each in await self.fullness() if each.days is not None)
            except Exception:
                # A full disk, say: the next look may do.
                log.exception("disks_not_kept")
            await asyncio.sleep(EVERY_S)

    async def _look_elsewhere(self) -> None:
        """Of other nodes, their monitors tell of the disk that YARD_HOME is on."""
        for device in tuple(self._devices.values.values()):
            host = device.host
            if host is None or host.disk_free_bytes is None or host.disk_total_bytes is None:
                continue
            if device.node != self._node:
                await self.note(
                    device.node, HOME_DISK, time.time(), host.disk_free_bytes, host.disk_total_bytes
                )

    async def note(self, node: str, disk: str, at: float, free_bytes: int, total_bytes: int) -> None:
        """Keep one sample; the last of an hour stands for it."""
        await self._usage.write(_note, (node, disk, int(at) // _HOUR_S, free_bytes, total_bytes))

    async def fullness(self) -> tuple[DiskFull, ...]:
        """When each disk will be full."""
        return await self._usage.read(_fullness, time.time() - LOOK_BACK_S)


def _days(full: DiskFull) -> Sample:
    labels = {"node": full.node, "disk": full.disk}
    return Sample(name="yard_disk_days_until_full", value=full.days or 0.0, labels=labels)


def _note(store: UsageStore, row: tuple[str, str, int, int, int]) -> None:
    with store.transaction():
        store.db.execute("INSERT OR REPLACE INTO disks VALUES (?, ?, ?, ?, ?)", row)


def _fullness(reader: UsageReader, since: float) -> tuple[DiskFull, ...]:
    rows = reader.db.execute(
        "SELECT node, disk, hour, free_bytes, total_bytes FROM disks WHERE hour >= ? ORDER BY hour",
        (since // _HOUR_S,),
    ).fetchall()
    found = []
    for node, disk in sorted({(row[0], row[1]) for row in rows}):
        mine = [row[2:] for row in rows if row[:2] == (node, disk)]
        full = days_until_full([(hour * _HOUR_S, free) for hour, free, _ in mine])
        found.append(
            DiskFull(
                node=node,
                disk=disk,
                free_bytes=mine[-1][1],
                total_bytes=mine[-1][2],
                days=full.days,
                soonest_days=full.soonest,
                latest_days=full.latest,
            )
        )
    return tuple(found)
