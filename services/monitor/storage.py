"""Storage: what is stored where, the hourly retention, and the removal of a model's usage."""

import asyncio
import time
from datetime import UTC, datetime

import msgspec
import nats.errors

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from schemas import buckets, streams
from schemas.base import Record
from schemas.errors import BrokerUnavailable, Conflict, NotFound
from schemas.models import ModelSpec
from schemas.storage import (
    DatabaseStats,
    GetStorageReport,
    ModelData,
    RemoveUsage,
    StorageReport,
    StoreStats,
    UsageRemoved,
    Vacuum,
    Vacuumed,
)
from services.monitor.calendar import day_of, midnight
from services.monitor.prices import Prices
from services.monitor.trends import DiskTrends
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.rollup_updates import rebuild_derived
from services.monitor.usage.rollups import QUARTER_S, START, quarter_of
from services.monitor.usage.schema import TABLES
from services.monitor.usage.store import HORIZON, UsageStore

log = logs.get(__name__)

DAY_S = 86400.0
RETENTION_PERIOD_S = 3600.0
CHECK_S = 60.0
_MIB = 2**20
_LAST_RETENTION = "tidied"
"""The fact of the file that has the time of the last retention."""
_BATCH = 10_000
"""Rows per transaction: other writes run between two."""
_TARGET_SHARE = 0.9
"""A file over its limit is reduced to this share of it, so that it stays below for a while."""
_OLDEST = {
    "requests": "finished_at",
    "charges": "at",
    "quarters": f"quarter * {QUARTER_S}",
    "disks": "hour * 3600",
}


class RetentionPolicy(Record):
    """How long usage is stored; 0 is without end."""

    records_days: float
    records_mib: float
    trends_days: float


class _StreamState(Record):
    messages: int = 0
    bytes: int = 0
    first_ts: datetime = datetime.fromtimestamp(0, UTC)


class _StreamConfig(Record):
    max_bytes: int = -1
    max_age: int = 0
    """Nanoseconds."""


class _StreamInfo(Record):
    state: _StreamState = _StreamState()
    config: _StreamConfig = _StreamConfig()


_decode_info = msgspec.json.Decoder(_StreamInfo).decode


class Storage:
    """The `storage` commands, `usage.remove`, and retention in the background."""

    def __init__(
        self,
        bus: Bus,
        usage: UsageDatabase,
        prices: Prices,
        disks: DiskTrends,
        models: BucketCache[ModelSpec],
        policy: RetentionPolicy,
    ) -> None:
        self._bus = bus
        self._usage = usage
        self._prices = prices
        self._disks = disks
        self._models = models
        self._policy = policy

    async def run(self) -> None:
        while True:
            try:
                due = await self._usage.write(retention_due, time.time())
                if due and (removed := await self.apply_retention()):
                    log.info("usage_removed", records=removed)
            except Exception:
                log.exception("retention_failed")
            await asyncio.sleep(CHECK_S)

    async def apply_retention(self) -> int:
        """Remove old records, whose sums stay, and old sums; returns the number of records."""
        now, removed = time.time(), 0
        horizon = await self._usage.write(target_horizon, self._policy, now)
        await self._usage.write(move_horizon, horizon)
        while count := await self._usage.write(remove_record_batch):
            removed += count
        await self._usage.write(remove_old_sums, self._policy, now)
        return removed

    async def vacuum(self, _command: Vacuum) -> Vacuumed:
        """Apply retention and shrink the file to its content."""
        before, removed = _file_bytes(self._usage), await self.apply_retention()
        await self._usage.write(vacuum)
        return Vacuumed(before_bytes=before, after_bytes=_file_bytes(self._usage), requests_removed=removed)

    async def remove(self, command: RemoveUsage) -> UsageRemoved:
        """Remove the usage of a model that is not in the registry."""
        if any(spec.name == command.model for spec in self._models.values.values()):
            raise Conflict(
                f"{command.model} is in the registry; its usage can be removed once it is deleted there.",
                param="model",
            )
        if command.model not in {data.model for data in await self._model_data()}:
            raise NotFound(f"There is no usage of a model {command.model!r}.", param="model")
        removed = await self._usage.write(remove_model, command.model)
        await self._usage.notify_recount()
        return UsageRemoved(model=command.model, requests=removed)

    async def report(self, _query: GetStorageReport) -> StorageReport:
        named = [(stream.name, "stream", stream.name) for stream in streams.ALL]
        named += [(bucket.name, "bucket", bucket.stream) for bucket in buckets.ALL]
        try:
            stores = await asyncio.gather(*(self._stream_stats(*names) for names in named))
        except (TimeoutError, nats.errors.Error, msgspec.DecodeError) as error:
            raise BrokerUnavailable("The broker does not report what it stores; try again.") from error
        tables = await self._usage.read(_table_stats)
        return StorageReport(
            database=DatabaseStats(
                path=self._usage.path.name,
                bytes=_file_bytes(self._usage),
                free_bytes=await self._usage.read(_free_bytes),
            ),
            stores=(*stores, *tables),
            models=await self._model_data(),
            disks=await self._disks.forecasts(),
        )

    async def _stream_stats(self, name: str, kind: str, stream: str) -> StoreStats:
        # nats-py's StreamInfo has no time of the first message.
        msg = await self._bus.nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
        info = _decode_info(msg.data)
        state, config = info.state, info.config
        return StoreStats(
            name=name,
            kind=kind,
            messages=state.messages,
            bytes=state.bytes,
            oldest_at=state.first_ts.timestamp() if state.messages else None,
            max_bytes=config.max_bytes if config.max_bytes > 0 else None,
            max_age_s=config.max_age / 1e9 or None,
        )

    async def _model_data(self) -> tuple[ModelData, ...]:
        registered = {spec.name for spec in self._models.values.values()}
        rows = await self._usage.read(_totals_by_model)
        return tuple(
            ModelData(
                model=model,
                requests=requests,
                loaded_s=loaded_ms / 1000,
                priced=self._prices.book.has(model),
                orphan=model not in registered,
            )
            for model, requests, loaded_ms in rows
        )


def retention_due(store: UsageStore, now: float) -> bool:
    """Whether an hour has passed since the last retention or the creation of the file."""
    last = store.fact(_LAST_RETENTION)
    due = last is not None and now - last >= RETENTION_PERIOD_S
    if due or last is None:
        with store.transaction():
            store.set_fact(_LAST_RETENTION, now)
    return due


def used_bytes(store: UsageStore) -> int:
    """Bytes in use; free pages of the file are reused first."""
    pages, free, size = (
        int(store.db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def target_horizon(store: UsageStore, policy: RetentionPolicy, now: float) -> float:
    """The midnight before which records are to be removed; never after the start of the current day."""
    horizon = store.horizon
    if policy.records_days:
        horizon = max(horizon, _midnight_before(store, now - policy.records_days * DAY_S))
    if policy.records_mib and (used := used_bytes(store)) > policy.records_mib * _MIB:
        horizon = max(horizon, _horizon_by_size(store, 1 - _TARGET_SHARE * policy.records_mib * _MIB / used))
    return min(horizon, _midnight_before(store, now))


def _horizon_by_size(store: UsageStore, share: float) -> float:
    """The end of the day up to which this share of the records is older."""
    row = store.db.execute(
        "SELECT finished_at FROM requests ORDER BY finished_at LIMIT 1 OFFSET ?",
        (int(store.count() * share),),
    ).fetchone()
    return START if row is None else midnight(day_of(row[0], store.tz) + 1, store.tz)


def _midnight_before(store: UsageStore, at: float) -> float:
    return midnight(day_of(max(at, 2 * DAY_S), store.tz), store.tz)


def move_horizon(store: UsageStore, horizon: float) -> None:
    """Set the horizon, unless no record is older: then all can stay."""
    with store.transaction():
        (oldest,) = store.db.execute("SELECT MIN(finished_at) FROM requests").fetchone()
        if oldest is not None and oldest < horizon > store.horizon:
            store.set_fact(HORIZON, horizon)


def remove_record_batch(store: UsageStore) -> int:
    """Remove up to a batch of the records before the horizon; returns their number."""
    with store.transaction():
        return store.db.execute(
            "DELETE FROM requests WHERE rowid IN "
            "(SELECT rowid FROM requests WHERE finished_at < ? ORDER BY finished_at LIMIT ?)",
            (store.horizon, _BATCH),
        ).rowcount


def remove_old_sums(store: UsageStore, policy: RetentionPolicy, now: float) -> None:
    """Remove sums and disk samples that are older than the policy allows."""
    if not policy.trends_days:
        return
    at = _midnight_before(store, now - policy.trends_days * DAY_S)
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
            rebuild_derived(store.db, at, store.tz)


def vacuum(store: UsageStore) -> None:
    store.db.execute("VACUUM")
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def remove_model(store: UsageStore, model: str) -> int:
    """Remove everything of a model, also what the stream may redeliver; returns the number of records."""
    with store.transaction():
        of_model = "series IN (SELECT series FROM series WHERE model = ?)"
        removed = store.db.execute(f"DELETE FROM requests WHERE {of_model}", (model,)).rowcount  # noqa: S608 - our own names
        for table in ("charges", "quarters", "days", "latencies"):
            store.db.execute(f"DELETE FROM {table} WHERE {of_model}", (model,))  # noqa: S608 - our own names
        rebuild_derived(store.db)
        store.db.execute("INSERT OR REPLACE INTO removed VALUES (?, ?)", (model, time.time()))
    return removed


def _totals_by_model(reader: UsageReader) -> list[tuple[str, int, int]]:
    return reader.db.execute(
        "SELECT model, SUM(requests), SUM(loaded_ms) "
        "FROM model_days JOIN series USING (series) GROUP BY model"
    ).fetchall()


def _table_stats(reader: UsageReader) -> tuple[StoreStats, ...]:
    stats = []
    for name in TABLES:
        oldest = f"MIN({_OLDEST[name]})" if name in _OLDEST else "NULL"
        count, at = reader.db.execute(f"SELECT COUNT(*), {oldest} FROM {name}").fetchone()  # noqa: S608 - our own names
        stats.append(StoreStats(name=name, kind="table", messages=count, oldest_at=at))
    return tuple(stats)


def _free_bytes(reader: UsageReader) -> int:
    free, size = (
        int(reader.db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("freelist_count", "page_size")
    )
    return free * size


def _file_bytes(usage: UsageDatabase) -> int:
    """The size of the file with its write-ahead log."""
    files = (usage.path, usage.path.with_name(f"{usage.path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
