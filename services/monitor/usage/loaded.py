"""The time that instances are loaded, charged as it passes, in one transaction with how far it was."""

from collections.abc import Iterable, Mapping

from schemas.base import Record
from schemas.instances import InstanceState
from services.monitor.calendar import day_of
from services.monitor.costs.money import to_amount
from services.monitor.costs.pricing import time_cost
from services.monitor.usage.levels import QUARTER_S, quarter_of
from services.monitor.usage.series import Series
from services.monitor.usage.store import Counted, UsageStore
from services.monitor.usage.tally import Tally

LOST_S = 60.0
"""An instance that nobody has seen for so long ended when it was seen last, unless it says otherwise."""
REMEMBERED_S = 8 * 86400.0
"""As long as the stream may tell of an ended instance once more."""
_ENDED, _LOST = 1, 2
IN_MEMORY = frozenset({InstanceState.READY, InstanceState.DRAINING, InstanceState.STOPPING})
_ADD_CHARGE = """
INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (quarter, series) DO UPDATE SET
    loaded_ms = loaded_ms + excluded.loaded_ms, energy_mwh = energy_mwh + excluded.energy_mwh,
    cost_whole = cost_whole + excluded.cost_whole + (cost_pico + excluded.cost_pico) / 1000000000000,
    cost_pico = (cost_pico + excluded.cost_pico) % 1000000000000
"""


class Stay(Record):
    """An instance that is or was in memory: since when, and until when if that is known."""

    instance: str
    model: str
    node: str
    since: float
    until: float | None = None


def begin_or_end(store: UsageStore, stays: Iterable[Stay]) -> list[Counted]:
    """Take news of instances, in whatever order and however often they come."""
    charged: list[Counted] = []
    with store.transaction():
        for stay in stays:
            _know(store, stay)
            if stay.until is not None:
                charged += _charge(store, stay.instance, stay.until, 0)
                store.db.execute(
                    "UPDATE loaded SET ended = ?, seen_at = MAX(seen_at, ?) WHERE instance = ?",
                    (_ENDED, stay.until, stay.instance),
                )
    return charged


def pass_time(
    store: UsageStore, alive: Iterable[Stay], now: float, energy_mwh: Mapping[str, int]
) -> list[Counted]:
    """Charge everything in memory until now; `alive` are those that say so."""
    charged: list[Counted] = []
    with store.transaction():
        for stay in alive:
            _know(store, stay)
            # One that was lost may only have been out of sight.
            store.db.execute(
                "UPDATE loaded SET seen_at = ?, ended = CASE ended WHEN ? THEN 0 ELSE ended END "
                "WHERE instance = ?",
                (now, _LOST, stay.instance),
            )
        open_ones = store.db.execute("SELECT instance, seen_at FROM loaded WHERE NOT ended").fetchall()
        for instance, seen_at in open_ones:
            charged += _charge(store, instance, seen_at, energy_mwh.get(instance, 0))
        store.db.execute("UPDATE loaded SET ended = ? WHERE NOT ended AND seen_at < ?", (_LOST, now - LOST_S))
        store.db.execute("DELETE FROM loaded WHERE ended AND seen_at < ?", (now - REMEMBERED_S,))
    return charged


def _know(store: UsageStore, stay: Stay) -> None:
    store.db.execute(
        "INSERT INTO loaded VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
        (stay.instance, stay.model, stay.node, stay.since, stay.since),
    )


def _charge(store: UsageStore, instance: str, until: float, energy_mwh: int) -> list[Counted]:
    """Add what has passed since the last charge, a quarter of an hour at a time."""
    model, node, since, ended = store.db.execute(
        "SELECT model, node, charged_until, ended FROM loaded WHERE instance = ?", (instance,)
    ).fetchone()
    charged = []
    while since < until and ended != _ENDED:
        piece_end = min(until, (quarter_of(since) + 1) * QUARTER_S)
        charged.append(_add(store, Series(model, node=node), since, piece_end, energy_mwh))
        since, energy_mwh = piece_end, 0
    store.db.execute(
        "UPDATE loaded SET charged_until = MAX(charged_until, ?) WHERE instance = ?", (since, instance)
    )
    return charged


def _add(store: UsageStore, series: Series, since: float, until: float, energy_mwh: int) -> Counted:
    # From whole milliseconds to whole milliseconds, so that pieces add up.
    loaded_ms = round(until * 1000) - round(since * 1000)
    cost = to_amount(time_cost(store.book.price(series.model, since), loaded_ms, energy_mwh))
    quarter, day, number = quarter_of(since), day_of(since, store.tz), store.series.number(series)
    store.db.execute(_ADD_CHARGE, (quarter, number, since, day, loaded_ms, energy_mwh, *cost))
    tally = Tally(store.series)
    tally.add(quarter, day, number, (0, 0, 0, 0, loaded_ms, energy_mwh, *cost))
    tally.write(store.db)
    return Counted(store.serial, since, "", series.model, 0, 0, cost)
