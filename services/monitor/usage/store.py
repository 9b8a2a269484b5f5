"""Usage on disk, the writing side: one row per request however often its record arrives, and exact sums."""

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from schemas.requests import ANYONE, RequestFinished
from schemas.subjects import REQUEST_FINISHED
from services.monitor.calendar import day_of
from services.monitor.price_book import Amount, PriceBook, clamp_tokens, to_amount
from services.monitor.usage.rollup_updates import RollupBatch, rebuild_days, rebuild_derived, rebuild_sums
from services.monitor.usage.rollups import END, START, bin_of, quarter_of
from services.monitor.usage.schema import VERSION, create_tables
from services.monitor.usage.series import SeriesTable, UsageSeries

_INSERT = """
INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request) DO NOTHING
"""
_MAX_CLOCK_SKEW_S = 60.0
"""Requests of a clock further ahead count as finished now, and so in the budgets of now."""
TIME_ZONE, HORIZON, PROJECTED = "time_zone", "horizon", "folded"
"""Facts of the file: the zone of its days, since when it has single records, the last projection."""


class UsageIncrement(NamedTuple):
    """Usage counted by one transaction, for running totals."""

    serial: int
    """Number of the transaction: sums that were read after it include this."""
    at: float
    key: str
    model: str
    requests: int
    tokens: int
    cost: Amount


class UsageStore:
    """One connection, for the thread that opened it. `tz`: the zone of the stored days."""

    def __init__(self, path: Path, tz: ZoneInfo, price_book: Callable[[], PriceBook]) -> None:
        self.path = path
        self.tz = tz
        self.db = sqlite3.connect(path)
        self.serial = 0
        self._price_book = price_book
        self.series = SeriesTable(self.db)
        version_1_records = create_tables(self.db)
        self._migrate_derived()
        self._migrate_time_zone(tz)
        self.new = not version_1_records and self.fact(PROJECTED) is None
        """Whether nothing was ever projected here: the stream has to be read from its start."""
        self.add(REQUEST_FINISHED.decode(record.encode()) for record in version_1_records)
        self.db.execute("DROP TABLE IF EXISTS usage")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.serial += 1
        try:
            with self.db:
                yield
        except BaseException:
            self.series.clear_cache()
            raise

    def fact(self, name: str) -> Any:
        """A fact about the file; None if it is not set."""
        row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def set_fact(self, name: str, value: object) -> None:
        self.db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @property
    def price_book(self) -> PriceBook:
        return self._price_book()

    @property
    def horizon(self) -> float:
        """Single records before this are removed; only their sums are stored."""
        return float(self.fact(HORIZON) or START)

    def add(self, records: Iterable[RequestFinished]) -> list[UsageIncrement]:
        """Store new records with their cost in one transaction; returns what they add."""
        price_book = self.price_book
        with self.transaction():
            horizon, removed = self.horizon, self._removed_models()
            added, batch, latest = [], RollupBatch(self.series), time.time() + _MAX_CLOCK_SKEW_S
            for record in records:
                at = min(valid_timestamp(record), latest)
                if START < horizon > at or removed.get(record.model, -1.0) >= at:
                    continue
                row = self._row(record, at, to_amount(price_book.cost(record)))
                if self.db.execute(_INSERT, row).rowcount:
                    _add_to_batch(batch, row)
                    added.append(_increment(self.serial, record, row))
            batch.write(self.db)
            self.set_fact(PROJECTED, time.time())
        return added

    def begin_rebuild(self) -> None:
        """Start a list of the requests that the stream has."""
        self.db.execute("CREATE TEMP TABLE IF NOT EXISTS streamed (request TEXT PRIMARY KEY) WITHOUT ROWID")
        with self.transaction():
            self.db.execute("DELETE FROM streamed")

    def rebuild_records(self, records: list[RequestFinished]) -> int:
        """Add missing records of the stream; returns their number. Stored ones keep their cost."""
        with self.transaction():
            self.db.executemany(
                "INSERT OR IGNORE INTO streamed VALUES (?)", [(record.request,) for record in records]
            )
        return len(self.add(records))

    def finish_rebuild(self, discard_before: float | None) -> int:
        """Discard records before `discard_before` that the stream lacks, and recompute all sums."""
        with self.transaction():
            discarded = 0
            if discard_before is not None:
                discarded = self.db.execute(
                    "DELETE FROM requests WHERE finished_at < ? "
                    "AND request NOT IN (SELECT request FROM streamed)",
                    (discard_before,),
                ).rowcount
                for table in ("quarters", "days", "latencies"):
                    self.db.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
                self.set_fact(HORIZON, START)
            self.db.execute("DELETE FROM streamed")
            rebuild_sums(self.db, self.horizon, self.tz)
        return discarded

    def count(self) -> int:
        return int(self.db.execute("SELECT COUNT(*) FROM requests").fetchone()[0])

    def _removed_models(self) -> dict[str, float]:
        """Models whose usage was removed, with the time until which it stays removed."""
        return dict(self.db.execute("SELECT model, until FROM removed"))

    def _row(self, record: RequestFinished, at: float, cost: Amount) -> tuple[Any, ...]:
        return (
            record.request,
            at,
            quarter_of(at),
            day_of(at, self.tz),
            self.series.number(UsageSeries.of(record)),
            clamp_tokens(record.prompt_tokens),
            clamp_tokens(record.cached_tokens),
            clamp_tokens(record.completion_tokens),
            *cost,
            bin_of((record.finished_at - record.queued_at) * 1000),
            bin_of(record.first_token_ms),
            REQUEST_FINISHED.encode(record).decode(),
        )

    def _migrate_derived(self) -> None:
        # Files of version 2 have no derived rollups.
        if self.db.execute("PRAGMA user_version").fetchone() != (VERSION,):
            with self.transaction():
                rebuild_derived(self.db)
                self.db.execute(f"PRAGMA user_version = {VERSION}")

    def _migrate_time_zone(self, tz: ZoneInfo) -> None:
        with self.transaction():
            if self.fact(TIME_ZONE) not in (None, tz.key):
                rebuild_days(self.db, self.horizon, tz)
            self.set_fact(TIME_ZONE, tz.key)

    def close(self) -> None:
        """Close the file; its write-ahead log is merged and removed."""
        self.db.close()


def valid_timestamp(record: RequestFinished) -> float:
    at = record.finished_at
    return min(max(at, START), END - 1) if math.isfinite(at) else START


def _add_to_batch(batch: RollupBatch, row: tuple[Any, ...]) -> None:
    _, _, quarter, day, series, prompt, cached, completion, whole, pico, duration, first, _ = row
    batch.add(quarter, day, series, (1, prompt, cached, completion, 0, 0, whole, pico))
    for kind, number in (("duration", duration), ("first_token", first)):
        if number is not None:
            batch.add_latency(day, series, kind, number)


def _increment(serial: int, record: RequestFinished, row: tuple[Any, ...]) -> UsageIncrement:
    return UsageIncrement(
        serial, row[1], record.key or ANYONE, record.model, 1, row[5] + row[7], (row[8], row[9])
    )
