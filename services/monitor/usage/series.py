"""What requests are told apart by: every combination that ever came has a number."""

import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

from schemas.requests import ANYONE, RequestFinished


class Series(NamedTuple):
    """One combination. What is not known is empty; a charge for time has neither lane, status nor outcome."""

    model: str
    key: str = ""
    mode: str = ""
    node: str = ""
    lane: str = ""
    status: int = 0
    outcome: str = ""


def series_of(record: RequestFinished) -> Series:
    """The series of a request. One without a key is anyone's, never nobody's."""
    return Series(
        model=record.model,
        key=record.key or ANYONE,
        mode=record.mode or "",
        node=record.node or "",
        lane=record.lane.value,
        status=record.status,
        outcome=record.outcome.value,
    )


def narrowed(series: Series, fields: Collection[str]) -> Series:
    """The series with nothing but these fields."""
    empty = Series("")
    return empty._replace(**{name: getattr(series, name) for name in fields})


class SeriesTable:
    """The numbers, remembered for one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._by_number: dict[int, Series] = {}
        self._numbers: dict[Series, int] = {}
        self._narrow: dict[tuple[str, ...], dict[int, int]] = {}
        self._all_until = 0

    def all(self) -> dict[int, Series]:
        """Every series by its number, those too that others added."""
        rows = self._db.execute("SELECT * FROM series WHERE series > ?", (self._all_until,))
        self._remember((number, Series(*rest)) for number, *rest in rows)
        self._all_until = max(self._by_number, default=0)
        return self._by_number

    def number(self, series: Series) -> int:
        """Its number, a new one if it never came before."""
        if series not in self._numbers:
            fields = ", ".join(Series._fields)
            marks = ", ".join("?" * len(series))
            self._db.execute(
                f"INSERT INTO series ({fields}) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608 - our own names
                series,
            )
            matches = " AND ".join(f"{name} = ?" for name in Series._fields)
            found = self._db.execute(f"SELECT series FROM series WHERE {matches}", series)  # noqa: S608 - as above
            self._remember([(int(found.fetchone()[0]), series)])
        return self._numbers[series]

    def named(self, number: int) -> Series:
        """The series of a number that is there."""
        if number not in self._by_number:
            row = self._db.execute("SELECT * FROM series WHERE series = ?", (number,)).fetchone()
            self._remember([(number, Series(*row[1:]))])
        return self._by_number[number]

    def narrowed(self, fields: tuple[str, ...], numbers: Iterable[int]) -> dict[int, int]:
        """For series that are there, the number of the series that has these fields of it and no more."""
        known = self._narrow.setdefault(fields, {})
        for number in numbers:
            if number not in known:
                known[number] = self.number(narrowed(self.named(number), fields))
        return known

    def forget(self) -> None:
        """After a transaction was undone, numbers of it may be gone."""
        self._by_number.clear()
        self._numbers.clear()
        self._narrow.clear()
        self._all_until = 0

    def _remember(self, found: Iterable[tuple[int, Series]]) -> None:
        for number, series in found:
            self._by_number[number] = series
            self._numbers[series] = number
