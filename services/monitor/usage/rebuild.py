"""The read model made anew: the stream's records are added again, then everything is summed up.

What is there already stays as it was counted, with the cost it had. Dying in between costs nothing: a rebuild
can be begun again.
"""

from schemas.requests import RequestFinished
from services.monitor.usage.levels import START
from services.monitor.usage.store import HORIZON, UsageStore
from services.monitor.usage.sums import recount


def begin(store: UsageStore) -> None:
    """Remember from now on what the stream has."""
    store.db.execute("CREATE TEMP TABLE IF NOT EXISTS seen (request TEXT PRIMARY KEY) WITHOUT ROWID")
    with store.transaction():
        store.db.execute("DELETE FROM seen")


def add(store: UsageStore, records: list[RequestFinished]) -> int:
    """Add what is missing; how many that were."""
    with store.transaction():
        store.db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", [(each.request,) for each in records])
    return len(store.add(records))


def finish(store: UsageStore, discard_before: float | None) -> int:
    """Sum up. With a moment given, what ended before it and is not in the stream is discarded: how many."""
    with store.transaction():
        discarded = 0
        if discard_before is not None:
            discarded = store.db.execute(
                "DELETE FROM requests WHERE finished_at < ? AND request NOT IN (SELECT request FROM seen)",
                (discard_before,),
            ).rowcount
            for table in ("quarters", "days", "latencies"):
                store.db.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
            store.note(HORIZON, START)
        store.db.execute("DELETE FROM seen")
        recount(store.db, store.horizon, store.tz)
    return discarded


def count(store: UsageStore) -> int:
    """How many records there are."""
    (found,) = store.db.execute("SELECT COUNT(*) FROM requests").fetchone()
    return int(found)
