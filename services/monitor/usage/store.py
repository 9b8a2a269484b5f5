"""Usage on disk, the writing side: one row a request however often its record arrives, and exact sums."""

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
from services.monitor.costs.book import PriceBook
from services.monitor.costs.money import Amount, to_amount
from services.monitor.costs.pricing import counted
from services.monitor.usage.latency import bin_of
from services.monitor.usage.levels import END, START, quarter_of
from services.monitor.usage.schema import drop_older, is_of_today, note_of_today, set_up
from services.monitor.usage.series import SeriesTable, series_of
from services.monitor.usage.sums import derive, move_days
from services.monitor.usage.tally import Tally

_ADD = """
INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request) DO NOTHING
"""
_AHEAD_S = 60.0
"""A clock that is further ahead is wrong: what ended by it ended now, and is in the budgets of now."""
TIME_ZONE, HORIZON = "time_zone", "horizon"
"""Facts about the file: whose days it keeps, and since when it has single records."""


class Counted(NamedTuple):
    """Something that was counted now, for those who keep running totals."""

    serial: int
    """Of the transaction: who read the sums after it has this in them already."""
    at: float
    key: str
    model: str
    requests: int
    tokens: int
    cost: Amount


class UsageStore:
    """One connection, to be used from the thread that made it. `tz`: whose days are summed up."""

    def __init__(self, path: Path, tz: ZoneInfo, book: Callable[[], PriceBook]) -> None:
        self.path = path
        self.tz = tz
        self.db = sqlite3.connect(path)
        self.serial = 0
        self._book = book
        self.series = SeriesTable(self.db)
        older = set_up(self.db)
        self._fill_what_is_new()
        self._keep_days_of(tz)
        self.new = not older and self.fact("folded") is None
        """Whether nothing was ever counted here: the stream is to be read from its start."""
        self.add(REQUEST_FINISHED.decode(record.encode()) for record in older)
        drop_older(self.db)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self.serial += 1
        try:
            with self.db:
                yield
        except BaseException:
            self.series.forget()
            raise

    def fact(self, name: str) -> Any:
        """What is noted about the file; None if nothing is."""
        row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def note(self, name: str, value: object) -> None:
        """Note it, in the transaction under way."""
        self.db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @property
    def book(self) -> PriceBook:
        """The prices as they are now."""
        return self._book()

    @property
    def horizon(self) -> float:
        """Before this, single records were given up and only their sums are kept."""
        return float(self.fact(HORIZON) or START)

    def add(self, records: Iterable[RequestFinished]) -> list[Counted]:
        """Store in one transaction those that are not there yet, with what they cost; which these were."""
        book = self.book
        with self.transaction():
            horizon, removed = self.horizon, self._removed()
            added, tally, latest = [], Tally(self.series), time.time() + _AHEAD_S
            for record in records:
                at = min(moment(record), latest)
                if START < horizon > at or removed.get(record.model, -1.0) >= at:
                    continue
                row = self._row(record, at, to_amount(book.cost(record)))
                if self.db.execute(_ADD, row).rowcount:
                    _gather(tally, row)
                    added.append(_counted(self.serial, record, row))
            tally.write(self.db)
            self.note("folded", time.time())
        return added

    def _removed(self) -> dict[str, float]:
        """Models whose usage was taken away: what they did until then stays away."""
        return dict(self.db.execute("SELECT model, until FROM removed"))

    def _row(self, record: RequestFinished, at: float, cost: Amount) -> tuple[Any, ...]:
        prompt = counted(record.prompt_tokens)
        return (
            record.request,
            at,
            quarter_of(at),
            day_of(at, self.tz),
            self.series.number(series_of(record)),
            prompt,
            counted(record.cached_tokens),
            counted(record.completion_tokens),
            *cost,
            bin_of((record.finished_at - record.queued_at) * 1000),
            bin_of(record.first_token_ms),
            REQUEST_FINISHED.encode(record).decode(),
        )

    def _fill_what_is_new(self) -> None:
        if not is_of_today(self.db):
            with self.transaction():
                derive(self.db)
                note_of_today(self.db)

    def _keep_days_of(self, tz: ZoneInfo) -> None:
        """Days of another time zone are other days."""
        kept = self.fact(TIME_ZONE)
        with self.transaction():
            if kept not in (None, tz.key):
                move_days(self.db, self.horizon, tz)
            self.note(TIME_ZONE, tz.key)

    def close(self) -> None:
        """Leave the file whole, without its log beside it."""
        self.db.close()


def moment(record: RequestFinished) -> float:
    """When it ended, as far as that can be."""
    at = record.finished_at
    return min(max(at, START), END - 1) if math.isfinite(at) else START


def _gather(tally: Tally, row: tuple[Any, ...]) -> None:
    _, _, quarter, day, series, prompt, cached, completion, whole, pico, duration, first, _ = row
    tally.add(quarter, day, series, (1, prompt, cached, completion, 0, 0, whole, pico))
    for kind, number in (("duration", duration), ("first_token", first)):
        if number is not None:
            tally.add_latency(day, series, kind, number)


def _counted(serial: int, record: RequestFinished, row: tuple[Any, ...]) -> Counted:
    return Counted(serial, row[1], record.key or ANYONE, record.model, 1, row[5] + row[7], (row[8], row[9]))
