"""Updates of rollups: the increments of a transaction, and rebuilds from what they are derived from."""

import sqlite3
from collections.abc import Mapping, Sequence
from operator import add
from zoneinfo import ZoneInfo

from schemas.requests import Outcome
from services.monitor.calendar import day_of
from services.monitor.price_book import PICO
from services.monitor.usage.rollups import (
    ALL_LATENCIES,
    DAYS,
    DERIVED,
    DERIVED_LATENCIES,
    END,
    LATENCIES,
    QUARTER_S,
    QUARTERS,
    SUMS,
    Rollup,
    TimeUnit,
    quarter_of,
)
from services.monitor.usage.schema import DERIVED_COLUMNS, SUM_COLUMNS
from services.monitor.usage.series import SeriesTable

_CARRY = f"""
    cost_whole = cost_whole + excluded.cost_whole + (cost_pico + excluded.cost_pico) / {PICO},
    cost_pico = (cost_pico + excluded.cost_pico) % {PICO}
"""

_SumKey = tuple[int, int]
"""Number of a unit of time, number of a series."""
_BinKey = tuple[str, int, int, int]
"""Kind, number of a unit of time, number of a series, bin."""
_COST = f"SUM(cost_whole) + SUM(cost_pico) / {PICO}, SUM(cost_pico) % {PICO}"
_FROM_REQUESTS = f"COUNT(*), SUM(prompt_tokens), SUM(cached_tokens), SUM(completion_tokens), 0, 0, {_COST}"
_COUNTS = ", ".join(f"SUM({name})" for name in SUM_COLUMNS[:-2])
_UTC = ZoneInfo("UTC")
_OUTCOMES = "SUM(requests * (outcome = 'failed')), SUM(requests * (outcome = 'cancelled'))"


class RollupBatch:
    """Increments of all rollups, written in the transaction of the rows that they come from."""

    def __init__(self, table: SeriesTable, rollups: Sequence[Rollup] = SUMS) -> None:
        self._table = table
        self._rollups = rollups
        self._sums: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self._latencies: dict[_BinKey, int] = {}

    def add(self, quarter: int, day: int, series: int, sums: tuple[int, ...]) -> None:
        """Add sums, in the order of SUM_COLUMNS, to one series in one quarter of an hour."""
        key = (quarter, day, series)
        before = self._sums.get(key)
        self._sums[key] = sums if before is None else tuple(map(add, before, sums))

    def add_latency(self, day: int, series: int, kind: str, number: int) -> None:
        key = (kind, day, series, number)
        self._latencies[key] = self._latencies.get(key, 0) + 1

    def write(self, db: sqlite3.Connection) -> None:
        with_outcomes = {key: self._with_outcomes(key[2], sums) for key, sums in self._sums.items()}
        for rollup in self._rollups:
            rows = self._sum_rows(rollup, self._sums if rollup.base == "requests" else with_outcomes)
            db.executemany(_UPSERT[rollup.table], ((*key, *_carried(sums)) for key, sums in rows.items()))
        for rollup in ALL_LATENCIES if self._latencies else ():
            # In the order of the table, so that neighbours are written one after another.
            bins = sorted(self._latency_rows(rollup).items())
            db.executemany(_UPSERT[rollup.table], ((*key, count) for key, count in bins))

    def _with_outcomes(self, series: int, sums: tuple[int, ...]) -> tuple[int, ...]:
        outcome = self._table.series(series).outcome
        return sums[0] * (outcome == Outcome.FAILED), sums[0] * (outcome == Outcome.CANCELLED), *sums

    def _sum_rows(
        self, rollup: Rollup, sums_by_key: Mapping[tuple[int, int, int], tuple[int, ...]]
    ) -> dict[_SumKey, tuple[int, ...]]:
        by_quarter, width = rollup.base_unit is TimeUnit.QUARTER, rollup.width
        narrow = self._table.narrowed(rollup.fields, {series for _, _, series in sums_by_key})
        rows: dict[_SumKey, tuple[int, ...]] = {}
        for (quarter, day, series), sums in sums_by_key.items():
            key = ((quarter if by_quarter else day) // width, narrow[series])
            before = rows.get(key)
            rows[key] = sums if before is None else tuple(map(add, before, sums))
        return rows

    def _latency_rows(self, rollup: Rollup) -> Mapping[_BinKey, int]:
        if rollup is LATENCIES:
            return self._latencies
        width = rollup.width
        narrow = self._table.narrowed(rollup.fields, {key[2] for key in self._latencies})
        rows: dict[_BinKey, int] = {}
        for (kind, day, series, number), count in self._latencies.items():
            key = (kind, day // width, narrow[series], number)
            rows[key] = rows.get(key, 0) + count
        return rows


def _carried(sums: tuple[int, ...]) -> tuple[int, ...]:
    *counts, whole, pico = sums
    return *counts, whole + pico // PICO, pico % PICO


def _upsert(rollup: Rollup) -> str:
    columns = SUM_COLUMNS if rollup.base == "requests" else DERIVED_COLUMNS
    names = (rollup.unit, "series", *columns)
    summed = ", ".join(f"{name} = {name} + excluded.{name}" for name in columns[:-2])
    return (
        f"INSERT INTO {rollup.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608 - our own names
        f"ON CONFLICT ({rollup.unit}, series) DO UPDATE SET {summed}, {_CARRY}"
    )


def _upsert_latency(rollup: Rollup) -> str:
    return (
        f"INSERT INTO {rollup.table} (kind, {rollup.unit}, series, bin, requests) VALUES (?, ?, ?, ?, ?) "  # noqa: S608 - our own names
        f"ON CONFLICT (kind, {rollup.unit}, series, bin) DO UPDATE "
        "SET requests = requests + excluded.requests"
    )


_UPSERT = {rollup.table: _upsert(rollup) for rollup in SUMS} | {
    rollup.table: _upsert_latency(rollup) for rollup in ALL_LATENCIES
}


def rebuild_sums(db: sqlite3.Connection, horizon: float, tz: ZoneInfo) -> None:
    """Recompute all sums since the horizon, which is a midnight, from single records and charges."""
    quarter, day = quarter_of(horizon), day_of(horizon, tz)
    for table, unit, first in (("quarters", "quarter", quarter), ("days", "day", day)):
        db.execute(f"DELETE FROM {table} WHERE {unit} >= ?", (first,))  # noqa: S608 - our own names
        columns = ", ".join((unit, "series", *SUM_COLUMNS))
        db.execute(
            f"INSERT INTO {table} ({columns}) SELECT {unit}, series, {_FROM_REQUESTS} "  # noqa: S608 - as above
            f"FROM requests WHERE finished_at >= ? GROUP BY {unit}, series",
            (horizon,),
        )
    db.execute("DELETE FROM latencies WHERE day >= ?", (day,))
    for kind in ("duration", "first_token"):
        db.execute(
            f"INSERT INTO latencies SELECT day, series, '{kind}', {kind}_bin, COUNT(*) FROM requests "  # noqa: S608 - as above
            f"WHERE finished_at >= ? AND {kind}_bin IS NOT NULL GROUP BY day, series, {kind}_bin",
            (horizon,),
        )
    _add_charges(db, quarter)
    rebuild_derived(db)


def _add_charges(db: sqlite3.Connection, first: int) -> None:
    rows = db.execute(
        "SELECT quarter, day, series, loaded_ms, energy_mwh, cost_whole, cost_pico "
        "FROM charges WHERE quarter >= ?",
        (first,),
    ).fetchall()
    batch = RollupBatch(SeriesTable(db), (QUARTERS, DAYS))
    for quarter, day, series, *charged in rows:
        batch.add(quarter, day, series, (0, 0, 0, 0, *charged))
    batch.write(db)


def rebuild_derived(db: sqlite3.Connection, until: float = END, tz: ZoneInfo = _UTC) -> None:
    """Recompute sums of sums up to the end of the unit that contains `until`; `tz`: of the stored days."""
    _fill_narrowed(db)
    for rollup in (*DERIVED, *DERIVED_LATENCIES):
        last = (
            quarter_of(until) if rollup.base_unit is TimeUnit.QUARTER else day_of(until, tz)
        ) // rollup.width
        db.execute(f"DELETE FROM {rollup.table} WHERE {rollup.unit} <= ?", (last,))  # noqa: S608 - our own names
        insert = _insert_sums if rollup in DERIVED else _insert_latencies
        insert(db, rollup, (last + 1) * rollup.width)


def _fill_narrowed(db: sqlite3.Connection) -> None:
    """Fill a temporary table: for every series and the fields of every rollup, the narrowed series."""
    db.execute(
        "CREATE TEMP TABLE IF NOT EXISTS narrowed (fields TEXT, series INTEGER, narrow INTEGER, "
        "outcome TEXT, PRIMARY KEY (fields, series)) WITHOUT ROWID"
    )
    db.execute("DELETE FROM narrowed")
    table = SeriesTable(db)
    stored = tuple(table.all().items())
    for fields in dict.fromkeys(rollup.fields for rollup in (*DERIVED, *DERIVED_LATENCIES)):
        narrow = table.narrowed(fields, (number for number, _ in stored))
        db.executemany(
            "INSERT INTO narrowed VALUES (?, ?, ?, ?)",
            [(" ".join(fields), number, narrow[number], series.outcome) for number, series in stored],
        )


def _insert_sums(db: sqlite3.Connection, rollup: Rollup, end: int) -> None:
    db.execute(
        f"INSERT INTO {rollup.table} (series, {rollup.unit}, {', '.join(DERIVED_COLUMNS)}) "  # noqa: S608 - our own names
        f"SELECT narrow, {rollup.base_unit} / {rollup.width}, {_OUTCOMES}, {_COUNTS}, {_COST} "
        f"FROM {rollup.base} CROSS JOIN narrowed USING (series) "
        f"WHERE fields = ? AND {rollup.base_unit} < ? GROUP BY 1, 2",
        (" ".join(rollup.fields), end),
    )


def _insert_latencies(db: sqlite3.Connection, rollup: Rollup, end: int) -> None:
    db.execute(
        f"INSERT INTO {rollup.table} (kind, series, {rollup.unit}, bin, requests) "  # noqa: S608 - our own names
        f"SELECT kind, narrow, day / {rollup.width}, bin, SUM(requests) "
        f"FROM {rollup.base} CROSS JOIN narrowed USING (series) "
        f"WHERE fields = ? AND day < ? GROUP BY 1, 2, 3, 4",
        (" ".join(rollup.fields), end),
    )


def rebuild_days(db: sqlite3.Connection, horizon: float, tz: ZoneInfo) -> None:
    """Recompute days, from quarters of an hour, as days of another time zone."""
    db.create_function(
        "day_of_quarter", 1, lambda quarter: day_of(quarter * QUARTER_S, tz), deterministic=True
    )
    for table in ("requests", "charges"):
        db.execute(f"UPDATE {table} SET day = day_of_quarter(quarter)")  # noqa: S608 - one of two names
    db.execute("DELETE FROM days")
    db.execute(
        f"INSERT INTO days (day, series, {', '.join(SUM_COLUMNS)}) "  # noqa: S608 - our own names
        f"SELECT day_of_quarter(quarter), series, {_COUNTS}, {_COST} FROM quarters GROUP BY 1, 2"
    )
    rebuild_sums(db, horizon, tz)
