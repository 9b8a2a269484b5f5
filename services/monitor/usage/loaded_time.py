"""Charges for the time that instances are loaded, in one transaction with how far they are charged."""

from collections.abc import Iterable, Mapping

from schemas.base import Record
from schemas.instances import InstanceState
from services.monitor.calendar import day_of
from services.monitor.costs.pricing import time_cost, to_amount
from services.monitor.usage.rollup_batch import RollupBatch
from services.monitor.usage.rollups import QUARTER_S, quarter_of
from services.monitor.usage.series import UsageSeries
from services.monitor.usage.store import UsageIncrement, UsageStore

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
