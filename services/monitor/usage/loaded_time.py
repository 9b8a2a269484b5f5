"""Loaded time and energy: metered while instances are in memory, and charged in the usage file."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping

from modelyard.bus import logs
from modelyard.bus.records import BucketCache
from schemas.base import Record
from schemas.devices import Device
from schemas.instances import Instance, InstanceState
from services.monitor.calendar import day_of
from services.monitor.price_book import time_cost, to_amount
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.rollup_updates import RollupBatch
from services.monitor.usage.rollups import QUARTER_S, quarter_of
from services.monitor.usage.series import UsageSeries
from services.monitor.usage.store import UsageIncrement, UsageStore

log = logs.get(__name__)

PERIOD_S = 10.0
"""How often time is charged; a killed monitor loses the energy of at most this long."""
_MAX_SAMPLE_GAP_S = 5.0
"""Between two samples of a device that are further apart its energy is unknown."""
_ENDED_STATES = frozenset({InstanceState.STOPPED, InstanceState.FAILED})
LOST_S = 60.0
"""An instance whose record is missing for this long counts as ended when it was last seen."""
RETENTION_S = 8 * 86400.0
"""How long the stream may redeliver the end of an instance."""
_ENDED, _LOST = 1, 2
IN_MEMORY = frozenset({InstanceState.READY, InstanceState.DRAINING, InstanceState.STOPPING})
_ADD_CHARGE = """
INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (quarter, series) DO UPDATE SET
    loaded_ms = loaded_ms + excluded.loaded_ms, energy_mwh = energy_mwh + excluded.energy_mwh,
    cost_whole = cost_whole + excluded.cost_whole + (cost_pico + excluded.cost_pico) / 1000000000000,
    cost_pico = (cost_pico + excluded.cost_pico) % 1000000000000
"""


class LoadedInterval(Record):
    """An instance in memory since `since`; `until` is None while it is loaded."""

    instance: str
    model: str
    node: str
    since: float
    until: float | None = None


class LoadedTimeMeter:
    """Charges instances in memory. Events give their starts and ends, the bucket those that still run."""

    def __init__(
        self, usage: UsageDatabase, instances: BucketCache[Instance], devices: BucketCache[Device]
    ) -> None:
        self._usage = usage
        self._instances = instances
        self._samples: dict[str, Device] = {}
        self._energy_mwh: dict[str, float] = defaultdict(float)
        devices.listen(self._on_sample)

    async def store(self, changes: list[Instance]) -> None:
        """Store changes of instances; those that were never ready cost nothing."""
        intervals = [interval for change in changes if (interval := _interval(change)) is not None]
        await self._usage.notify_increments(await self._usage.write(record_intervals, intervals))

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.charge(time.time())
            except Exception:
                # A full disk, for example. The next charge covers the time since the last.
                log.exception("loaded_time_charge_failed")

    async def charge(self, now: float) -> None:
        instances = [instance for instance in self._instances.values.values() if instance.state in IN_MEMORY]
        intervals = [interval for instance in instances if (interval := _interval(instance)) is not None]
        energy_mwh = {name: int(energy) for name, energy in self._energy_mwh.items() if energy >= 1}
        for name, energy in energy_mwh.items():
            self._energy_mwh[name] -= energy
        increments = await self._usage.write(charge_loaded_time, intervals, now, energy_mwh)
        await self._usage.notify_increments(increments)

    def _on_sample(self, key: str, device: Device | None) -> None:
        if device is None:
            self._samples.pop(key, None)
            return
        before = self._samples.get(key)
        self._samples[key] = device
        if before is None or device.power_w is None:
            return
        passed_s = device.sampled_at - before.sampled_at
        if 0 < passed_s <= _MAX_SAMPLE_GAP_S:
            energy_mwh = device.power_w * passed_s / 3.6
            for name, share in energy_shares(device, self._instances.values.values()).items():
                self._energy_mwh[name] += share * energy_mwh


def energy_shares(device: Device, instances: Iterable[Instance]) -> dict[str, float]:
    """Each instance's share of a device's power: by busy slots, and evenly while none is busy."""
    busy_slots = {
        instance.instance: instance.busy
        for instance in instances
        if instance.state in IN_MEMORY and _uses(instance, device)
    }
    total = sum(busy_slots.values())
    if not total:
        return {name: 1 / len(busy_slots) for name in busy_slots}
    return {name: slots / total for name, slots in busy_slots.items() if slots}


def _uses(instance: Instance, device: Device) -> bool:
    return any(
        part.device == device.device and (part.node or instance.node) == device.node
        for part in instance.reserved
    )


def _interval(change: Instance) -> LoadedInterval | None:
    if change.ready_at is None:
        return None
    return LoadedInterval(
        instance=change.instance,
        model=change.model,
        node=change.node,
        since=change.ready_at,
        until=change.changed_at if change.state in _ENDED_STATES else None,
    )


def record_intervals(store: UsageStore, intervals: Iterable[LoadedInterval]) -> list[UsageIncrement]:
    """Store starts and ends of instances; any order and any number of duplicates are fine."""
    charged: list[UsageIncrement] = []
    with store.transaction():
        for interval in intervals:
            _insert(store, interval)
            if interval.until is not None:
                charged += _charge(store, interval.instance, interval.until, 0)
                store.db.execute(
                    "UPDATE loaded SET ended = ?, seen_at = MAX(seen_at, ?) WHERE instance = ?",
                    (_ENDED, interval.until, interval.instance),
                )
    return charged


def charge_loaded_time(
    store: UsageStore, loaded: Iterable[LoadedInterval], now: float, energy_mwh: Mapping[str, int]
) -> list[UsageIncrement]:
    """Charge every instance in memory until now; `loaded` are those with a live record."""
    charged: list[UsageIncrement] = []
    with store.transaction():
        for interval in loaded:
            _insert(store, interval)
            # A lost instance that is seen again is charged again.
            store.db.execute(
                "UPDATE loaded SET seen_at = ?, ended = CASE ended WHEN ? THEN 0 ELSE ended END "
                "WHERE instance = ?",
                (now, _LOST, interval.instance),
            )
        rows = store.db.execute("SELECT instance, seen_at FROM loaded WHERE NOT ended").fetchall()
        for instance, seen_at in rows:
            charged += _charge(store, instance, seen_at, energy_mwh.get(instance, 0))
        store.db.execute("UPDATE loaded SET ended = ? WHERE NOT ended AND seen_at < ?", (_LOST, now - LOST_S))
        store.db.execute("DELETE FROM loaded WHERE ended AND seen_at < ?", (now - RETENTION_S,))
    return charged


def _insert(store: UsageStore, interval: LoadedInterval) -> None:
    store.db.execute(
        "INSERT INTO loaded VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
        (interval.instance, interval.model, interval.node, interval.since, interval.since),
    )


def _charge(store: UsageStore, instance: str, until: float, energy_mwh: int) -> list[UsageIncrement]:
    """Charge the time since the last charge, split at quarters of an hour."""
    model, node, since, ended = store.db.execute(
        "SELECT model, node, charged_until, ended FROM loaded WHERE instance = ?", (instance,)
    ).fetchone()
    charged = []
    while since < until and ended != _ENDED:
        piece_end = min(until, (quarter_of(since) + 1) * QUARTER_S)
        charged.append(_add(store, UsageSeries(model, node=node), since, piece_end, energy_mwh))
        since, energy_mwh = piece_end, 0
    store.db.execute(
        "UPDATE loaded SET charged_until = MAX(charged_until, ?) WHERE instance = ?", (since, instance)
    )
    return charged


def _add(
    store: UsageStore, series: UsageSeries, since: float, until: float, energy_mwh: int
) -> UsageIncrement:
    # Both ends are rounded to milliseconds, so that adjacent pieces add up.
    loaded_ms = round(until * 1000) - round(since * 1000)
    cost = to_amount(time_cost(store.price_book.price(series.model, since), loaded_ms, energy_mwh))
    quarter, day, number = quarter_of(since), day_of(since, store.tz), store.series.number(series)
    store.db.execute(_ADD_CHARGE, (quarter, number, since, day, loaded_ms, energy_mwh, *cost))
    batch = RollupBatch(store.series)
    batch.add(quarter, day, number, (0, 0, 0, 0, loaded_ms, energy_mwh, *cost))
    batch.write(store.db)
    return UsageIncrement(store.serial, since, "", series.model, 0, 0, cost)
