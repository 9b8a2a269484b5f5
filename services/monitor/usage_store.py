"""Usage records on disk: SQLite, one row a request however often its record arrives."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from schemas.requests import ModelUsage, RequestFinished, UsageQuery, UsageReport
from schemas.subjects import REQUEST_FINISHED

# FULL: a record is acknowledged to the broker after the commit, which must then outlive a power cut.
_SETUP = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS usage (
    request TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    outcome TEXT NOT NULL,
    finished_at REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS usage_sums ON usage
    (model, finished_at, outcome, prompt_tokens, cached_tokens, completion_tokens);
CREATE INDEX IF NOT EXISTS usage_recent ON usage (finished_at, request);
"""
_ADD = "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request) DO NOTHING"
_SUMS = """
SELECT model, COUNT(*) AS requests,
    SUM(outcome = 'failed') AS failed, SUM(outcome = 'cancelled') AS cancelled,
    SUM(prompt_tokens) AS prompt_tokens, SUM(cached_tokens) AS cached_tokens,
    SUM(completion_tokens) AS completion_tokens
FROM usage
WHERE (:since IS NULL OR finished_at >= :since)
    AND (:until IS NULL OR finished_at < :until)
    AND (:model IS NULL OR model = :model)
GROUP BY model
ORDER BY requests DESC, model
"""
_RECENT = """
SELECT record FROM usage
WHERE (:since IS NULL OR finished_at >= :since)
    AND (:until IS NULL OR finished_at < :until)
    AND (:model IS NULL OR model = :model)
ORDER BY finished_at DESC, request
LIMIT :recent
"""

_MAX_TOKENS = 2**40
"""More in one request is a fault of the engine; counted so, no sum leaves SQLite's 64 bits."""


class UsageStore:
    """One connection, to be used from the thread that made it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path)
        self._db.row_factory = sqlite3.Row
        self._db.executescript(_SETUP)

    def add(self, records: Iterable[RequestFinished]) -> int:
        """Store in one transaction those that are not there yet; how many they were."""
        before = self._db.total_changes
        with self._db:
            self._db.executemany(_ADD, [_row(record) for record in records])
        return self._db.total_changes - before

    def report(self, query: UsageQuery) -> UsageReport:
        """Sums and newest records, of requests that finished at or after `since` and before `until`."""
        bounds = msgspec.structs.asdict(query)
        sums = self._db.execute(_SUMS, bounds).fetchall()
        recent = self._db.execute(_RECENT, bounds).fetchall()
        return UsageReport(
            models=tuple(ModelUsage(**dict(row)) for row in sums),
            recent=tuple(REQUEST_FINISHED.decode(row["record"].encode()) for row in recent),
        )

    def close(self) -> None:
        """Leave the file whole, without its log beside it."""
        self._db.close()


def _row(record: RequestFinished) -> tuple[Any, ...]:
    return (
        record.request,
        record.model,
        record.outcome.value,
        record.finished_at,
        _counted(record.prompt_tokens),
        _counted(record.cached_tokens),
        _counted(record.completion_tokens),
        REQUEST_FINISHED.encode(record).decode(),
    )


def _counted(tokens: int) -> int:
    return min(max(tokens, 0), _MAX_TOKENS)
