"""Usage series: the combinations of fields that requests are grouped by, each with a number."""

import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

from schemas.requests import ANYONE, RequestFinished


class UsageSeries(NamedTuple):
    """One combination. Unknown fields are empty; a charge for time has no lane, status or outcome."""

    model: str
    key: str = ""
    mode: str = ""
    node: str = ""
    lane: str = ""
    status: int = 0
    outcome: str = ""

    @classmethod
    def of(cls, record: RequestFinished) -> "UsageSeries":
        """The series of a request; one without an API key belongs to ANYONE."""
        return cls(
            model=record.model,
            key=record.key or ANYONE,
            mode=record.mode or "",
            node=record.node or "",
            lane=record.lane.value,
            status=record.status,
            outcome=record.outcome.value,
        )

    def narrowed(self, fields: Collection[str]) -> "UsageSeries":
        return UsageSeries("")._replace(**{name: getattr(self, name) for name in fields})


class SeriesTable:
    """The numbers of all series, cached for one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._by_number: dict[int, UsageSeries] = {}
        self._numbers: dict[UsageSeries, int] = {}
        self._narrow: dict[tuple[str, ...], dict[int, int]] = {}
        self._read_until = 0

    def all(self) -> dict[int, UsageSeries]:
        """Every series by its number, including those that other connections added."""
        rows = self._db.execute("SELECT * FROM series WHERE series > ?", (self._read_until,))
        self._cache((number, UsageSeries(*rest)) for number, *rest in rows)
        self._read_until = max(self._by_number, default=0)
        return self._by_number

    def number(self, series: UsageSeries) -> int:
        if series not in self._numbers:
            fields = ", ".join(UsageSeries._fields)
            marks = ", ".join("?" * len(series))
            self._db.execute(
                f"INSERT INTO series ({fields}) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608 - our own names
                series,
            )
            matches = " AND ".join(f"{name} = ?" for name in UsageSeries._fields)
            row = self._db.execute(f"SELECT series FROM series WHERE {matches}", series)  # noqa: S608 - as above
            self._cache([(int(row.fetchone()[0]), series)])
        return self._numbers[series]

    def series(self, number: int) -> UsageSeries:
        if number not in self._by_number:
            row = self._db.execute("SELECT * FROM series WHERE series = ?", (number,)).fetchone()
            self._cache([(number, UsageSeries(*row[1:]))])
        return self._by_number[number]

    def narrowed(self, fields: tuple[str, ...], numbers: Iterable[int]) -> dict[int, int]:
        """By number of a stored series: the number of that series narrowed to `fields`."""
        narrow = self._narrow.setdefault(fields, {})
        for number in numbers:
            if number not in narrow:
                narrow[number] = self.number(self.series(number).narrowed(fields))
        return narrow

    def clear_cache(self) -> None:
        """After a rollback: numbers of the transaction may not exist."""
        self._by_number.clear()
        self._numbers.clear()
        self._narrow.clear()
        self._read_until = 0

    def _cache(self, rows: Iterable[tuple[int, UsageSeries]]) -> None:
        for number, series in rows:
            self._by_number[number] = series
            self._numbers[series] = number
