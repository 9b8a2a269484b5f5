"""The tables of the read model, and the migration of files of older versions."""

import sqlite3

from services.monitor.usage.rollups import ALL_LATENCIES, DERIVED, DERIVED_LATENCIES, SUMS

VERSION = 3
# FULL: a record is acknowledged to the broker after the commit, which must then outlive a power cut.
_PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 1000;
"""
SUM_COLUMNS = (
    *("requests", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("loaded_ms", "energy_mwh", "cost_whole", "cost_pico"),
)
"""The sums in every rollup."""
DERIVED_COLUMNS = ("failed", "cancelled", *SUM_COLUMNS)
"""The sums in derived rollups, whose series have no outcome."""
_SUMS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in SUM_COLUMNS)
_DERIVED_SUMS = ", ".join(f"{name} INTEGER NOT NULL" for name in DERIVED_COLUMNS)
# By series first: rows of one series are adjacent and are added up without sorting.
_DERIVED = "".join(
    f"CREATE TABLE IF NOT EXISTS {rollup.table} (series INTEGER NOT NULL, {rollup.unit} INTEGER NOT NULL, "
    f"{_DERIVED_SUMS}, PRIMARY KEY (series, {rollup.unit})) WITHOUT ROWID;\n"
    for rollup in DERIVED
) + "".join(
    f"CREATE TABLE IF NOT EXISTS {rollup.table} (kind TEXT NOT NULL, series INTEGER NOT NULL, "
    f"{rollup.unit} INTEGER NOT NULL, bin INTEGER NOT NULL, requests INTEGER NOT NULL, "
    f"PRIMARY KEY (kind, series, {rollup.unit}, bin)) WITHOUT ROWID;\n"
    for rollup in DERIVED_LATENCIES
)
_TABLES = f"""
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (
    series INTEGER PRIMARY KEY, model TEXT NOT NULL, key TEXT NOT NULL, mode TEXT NOT NULL,
    node TEXT NOT NULL, lane TEXT NOT NULL, status INTEGER NOT NULL, outcome TEXT NOT NULL,
    UNIQUE (model, key, mode, node, lane, status, outcome)
);
CREATE TABLE IF NOT EXISTS requests (
    request TEXT PRIMARY KEY, finished_at REAL NOT NULL,
    quarter INTEGER NOT NULL, day INTEGER NOT NULL, series INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    cost_whole INTEGER NOT NULL, cost_pico INTEGER NOT NULL,
    duration_bin INTEGER, first_token_bin INTEGER, record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (finished_at, request);
CREATE TABLE IF NOT EXISTS charges (
    quarter INTEGER NOT NULL, series INTEGER NOT NULL, at REAL NOT NULL, day INTEGER NOT NULL,
    loaded_ms INTEGER NOT NULL, energy_mwh INTEGER NOT NULL,
    cost_whole INTEGER NOT NULL, cost_pico INTEGER NOT NULL, PRIMARY KEY (quarter, series)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS loaded (
    instance TEXT PRIMARY KEY, model TEXT NOT NULL, node TEXT NOT NULL,
    charged_until REAL NOT NULL, seen_at REAL NOT NULL, ended INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarters (
    quarter INTEGER NOT NULL, series INTEGER NOT NULL, {_SUMS}, PRIMARY KEY (quarter, series)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days (
    day INTEGER NOT NULL, series INTEGER NOT NULL, {_SUMS}, PRIMARY KEY (day, series)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS latencies (
    day INTEGER NOT NULL, series INTEGER NOT NULL, kind TEXT NOT NULL, bin INTEGER NOT NULL,
    requests INTEGER NOT NULL, PRIMARY KEY (kind, day, series, bin)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removed (model TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS disks (
    node TEXT NOT NULL, disk TEXT NOT NULL, hour INTEGER NOT NULL,
    free_bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL, PRIMARY KEY (node, disk, hour)
) WITHOUT ROWID;
{_DERIVED}
"""
TABLES = ("requests", "charges", *(rollup.table for rollup in (*SUMS, *ALL_LATENCIES)), "disks")


def create_tables(db: sqlite3.Connection) -> list[str]:
    """Create missing tables; returns the JSON records of a file of version 1, to be added again."""
    db.executescript(_PRAGMAS)
    old = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'usage'").fetchone()
    records = [str(record) for (record,) in db.execute("SELECT record FROM usage")] if old else []
    db.executescript(_TABLES)
    return records
