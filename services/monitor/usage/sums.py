"""Keeping sums: by the quarter of an hour, which fits every time zone, and by the day of the yard's own."""

import sqlite3
from zoneinfo import ZoneInfo

from services.monitor.calendar import day_of
from services.monitor.costs.money import PICO
from services.monitor.usage.levels import QUARTER_S, quarter_of
from services.monitor.usage.schema import SUM_COLUMNS

_COUNTS = SUM_COLUMNS[:-2]
_CARRIED = f"""
    cost_whole = cost_whole + excluded.cost_whole + (cost_pico + excluded.cost_pico) / {PICO},
    cost_pico = (cost_pico + excluded.cost_pico) % {PICO}
"""
_SUMMED = ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTS)


def _upsert(table: str, unit: str) -> str:
    names = (unit, "series", *SUM_COLUMNS)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "  # noqa: S608 - our own names
        f"ON CONFLICT ({unit}, series) DO UPDATE SET {_SUMMED}, {_CARRIED}"
    )


ADD_QUARTER, ADD_DAY = _upsert("quarters", "quarter"), _upsert("days", "day")
"""Add to a sum: quarter or day, series, then every column of sums."""
ADD_LATENCY = """
INSERT INTO latencies (day, series, kind, bin, requests) VALUES (?, ?, ?, ?, 1)
ON CONFLICT (kind, day, series, bin) DO UPDATE SET requests = requests + 1
"""
_COST = f"SUM(cost_whole) + SUM(cost_pico) / {PICO}, SUM(cost_pico) % {PICO}"
_FROM_REQUESTS = f"COUNT(*), SUM(prompt_tokens), SUM(cached_tokens), SUM(completion_tokens), 0, 0, {_COST}"


def recount(db: sqlite3.Connection, horizon: float, tz: ZoneInfo) -> None:
    """Make all sums since the horizon, which is a midnight, anew from single records and charges."""
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


def _add_charges(db: sqlite3.Connection, first: int) -> None:
    rows = db.execute(
        "SELECT quarter, day, series, loaded_ms, energy_mwh, cost_whole, cost_pico "
        "FROM charges WHERE quarter >= ?",
        (first,),
    ).fetchall()
    for quarter, day, series, *charged in rows:
        db.execute(ADD_QUARTER, (quarter, series, 0, 0, 0, 0, *charged))
        db.execute(ADD_DAY, (day, series, 0, 0, 0, 0, *charged))


def move_days(db: sqlite3.Connection, horizon: float, tz: ZoneInfo) -> None:
    """Days of another time zone are other days: make them anew from the quarters of an hour."""
    db.create_function(
        "day_of_quarter", 1, lambda quarter: day_of(quarter * QUARTER_S, tz), deterministic=True
    )
    for table in ("requests", "charges"):
        db.execute(f"UPDATE {table} SET day = day_of_quarter(quarter)")  # noqa: S608 - one of two names
    db.execute("DELETE FROM days")
    counts = ", ".join(f"SUM({name})" for name in _COUNTS)
    db.execute(
        f"INSERT INTO days (day, series, {', '.join(SUM_COLUMNS)}) "  # noqa: S608 - our own names
        f"SELECT day_of_quarter(quarter), series, {counts}, {_COST} FROM quarters GROUP BY 1, 2"
    )
    recount(db, horizon, tz)
