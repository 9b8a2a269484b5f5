"""What is kept for how long: single records by age and by the size of the file, sums and samples by age."""

import time

from schemas.base import Record
from services.monitor.calendar import day_of, midnight
from services.monitor.usage.levels import QUARTER_S, START, quarter_of
from services.monitor.usage.store import HORIZON, UsageStore
from services.monitor.usage.sums import derive

DAY_S = 86400.0
_MIB = 2**20
_TIDIED = "tidied"
_BATCH = 10_000
"""Rows a transaction: others have their turn between two."""
_SPARE = 0.9
"""A file that is too large is brought to this share of its limit, so that it stays below for a while."""


EVERY_S = 3600.0


class Keep(Record):
    """The rules; 0 is without end."""

    records_days: float
    records_mib: float
    trends_days: float


def is_due(store: UsageStore, now: float) -> bool:
    """Once an hour, however often a monitor is started; first an hour after the file was made."""
    last = store.fact(_TIDIED)
    due = last is not None and now - last >= EVERY_S
    if due or last is None:
        with store.transaction():
            store.note(_TIDIED, now)
    return due


def used_bytes(store: UsageStore) -> int:
    """What is in the file; free pages in it are used again first."""
    pages, free, size = (
        int(store.db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def horizon_of(store: UsageStore, keep: Keep, now: float) -> float:
    """Before which midnight records are to go. Never a day that is not over."""
    horizon = store.horizon
    if keep.records_days:
        horizon = max(horizon, _midnight_before(store, now - keep.records_days * DAY_S))
    if keep.records_mib and (used := used_bytes(store)) > keep.records_mib * _MIB:
        horizon = max(horizon, _horizon_by_size(store, 1 - _SPARE * keep.records_mib * _MIB / used))
    return min(horizon, _midnight_before(store, now))


def _horizon_by_size(store: UsageStore, share: float) -> float:
    """The end of the day up to which this share of the records lies."""
    (count,) = store.db.execute("SELECT COUNT(*) FROM requests").fetchone()
    row = store.db.execute(
        "SELECT finished_at FROM requests ORDER BY finished_at LIMIT 1 OFFSET ?", (int(count * share),)
    ).fetchone()
    return START if row is None else midnight(day_of(row[0], store.tz) + 1, store.tz)


def _midnight_before(store: UsageStore, at: float) -> float:
    return midnight(day_of(max(at, 2 * DAY_S), store.tz), store.tz)


def move_horizon(store: UsageStore, horizon: float) -> None:
    """From now on, what is older is known by its sums alone; where nothing is older, all stays as it was."""
    with store.transaction():
        (oldest,) = store.db.execute("SELECT MIN(finished_at) FROM requests").fetchone()
        if oldest is not None and oldest < horizon > store.horizon:
            store.note(HORIZON, horizon)


def remove_some_records(store: UsageStore) -> int:
    """Some of those before the horizon; 0 when none is left."""
    with store.transaction():
        return store.db.execute(
            "DELETE FROM requests WHERE rowid IN "
            "(SELECT rowid FROM requests WHERE finished_at < ? ORDER BY finished_at LIMIT ?)",
            (store.horizon, _BATCH),
        ).rowcount


def remove_old_sums(store: UsageStore, keep: Keep, now: float) -> None:
    """Sums and samples that are too old."""
    if not keep.trends_days:
        return
    at = _midnight_before(store, now - keep.trends_days * DAY_S)
    quarter, day = quarter_of(at), day_of(at, store.tz)
    with store.transaction():
        removed = 0
        for table, unit, first in (
            *(("quarters", "quarter", quarter), ("charges", "quarter", quarter)),
            *(("days", "day", day), ("latencies", "day", day)),
            ("disks", "hour", quarter * QUARTER_S // 3600),
        ):
            removed += store.db.execute(f"DELETE FROM {table} WHERE {unit} < ?", (first,)).rowcount  # noqa: S608 - our own names
        if removed:
            derive(store.db, at, store.tz)


def vacuum(store: UsageStore) -> None:
    """Give free pages back to the disk."""
    store.db.execute("VACUUM")
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def forget_model(store: UsageStore, model: str) -> int:
    """Everything of one model, also what the stream would bring again; how many records that were."""
    with store.transaction():
        mine = "series IN (SELECT series FROM series WHERE model = ?)"
        removed = store.db.execute(f"DELETE FROM requests WHERE {mine}", (model,)).rowcount  # noqa: S608 - our words
        for table in ("charges", "quarters", "days", "latencies"):
            store.db.execute(f"DELETE FROM {table} WHERE {mine}", (model,))  # noqa: S608 - our own names
        derive(store.db)
        store.db.execute("INSERT OR REPLACE INTO removed VALUES (?, ?)", (model, time.time()))
    return removed
