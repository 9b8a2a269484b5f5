"""What is kept where, and the hourly round that gives up what is too old or too much."""

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
    AskStorage,
    DatabaseStats,
    ModelData,
    RemoveUsage,
    StorageReport,
    StoreStats,
    UsageRemoved,
    Vacuum,
    Vacuumed,
)
from services.monitor.costs.prices import Prices
from services.monitor.storage import retention
from services.monitor.storage.retention import Keep
from services.monitor.trends.trends import Disks
from services.monitor.usage.keeper import UsageKeeper
from services.monitor.usage.levels import QUARTER_S
from services.monitor.usage.reader import UsageReader
from services.monitor.usage.schema import TABLES

log = logs.get(__name__)

LOOK_S = 60.0
_OLDEST = {
    "requests": "finished_at",
    "charges": "at",
    "quarters": f"quarter * {QUARTER_S}",
    "disks": "hour * 3600",
}


class _State(Record):
    messages: int = 0
    bytes: int = 0
    first_ts: datetime = datetime.fromtimestamp(0, UTC)


class _Config(Record):
    max_bytes: int = -1
    max_age: int = 0
    """Nanoseconds."""


class _Info(Record):
    state: _State = _State()
    config: _Config = _Config()


_info = msgspec.json.Decoder(_Info)


class Storage:
    """Housekeeping."""

    def __init__(
        self,
        bus: Bus,
        usage: UsageKeeper,
        prices: Prices,
        disks: Disks,
        models: BucketCache[ModelSpec],
        keep: Keep,
    ) -> None:
        self._bus = bus
        self._usage = usage
        self._prices = prices
        self._disks = disks
        self._models = models
        self._keep = keep

    async def run(self) -> None:
        """Look after it until cancelled."""
        while True:
            try:
                if await self._usage.write(retention.is_due, time.time()) and (removed := await self.tidy()):
                    log.info("usage_removed", records=removed)
            except Exception:
                log.exception("not_tidied")
            await asyncio.sleep(LOOK_S)

    async def tidy(self) -> int:
        """Apply the rules; how many records went. The sums of what went stay."""
        now, removed = time.time(), 0
        horizon = await self._usage.write(retention.horizon_of, self._keep, now)
        await self._usage.write(retention.move_horizon, horizon)
        while some := await self._usage.write(retention.remove_some_records):
            removed += some
        await self._usage.write(retention.remove_old_sums, self._keep, now)
        return removed

    async def vacuum(self, _asked: Vacuum) -> Vacuumed:
        """Tidy, and make the file as small as what is in it."""
        before, removed = _file_bytes(self._usage), await self.tidy()
        await self._usage.write(retention.vacuum)
        return Vacuumed(before_bytes=before, after_bytes=_file_bytes(self._usage), requests_removed=removed)

    async def remove(self, asked: RemoveUsage) -> UsageRemoved:
        """Take the usage of a model away that left the registry."""
        if any(spec.name == asked.model for spec in self._models.values.values()):
            raise Conflict(
                f"{asked.model} is in the registry; its usage can be removed once it is deleted there.",
                param="model",
            )
        if asked.model not in {each.model for each in await self._model_data()}:
            raise NotFound(f"There is no usage of a model {asked.model!r}.", param="model")
        removed = await self._usage.write(retention.forget_model, asked.model)
        await self._usage.tell_recounted()
        return UsageRemoved(model=asked.model, requests=removed)

    async def report(self, _asked: AskStorage) -> StorageReport:
        """Everything that is kept, with its size."""
        named = [(stream.name, "stream", stream.name) for stream in streams.ALL]
        named += [(bucket.name, "bucket", bucket.stream) for bucket in buckets.ALL]
        try:
            kept = await asyncio.gather(*(self._stream_stats(*each) for each in named))
        except (TimeoutError, nats.errors.Error, msgspec.DecodeError) as error:
            raise BrokerUnavailable("The broker does not say what it keeps; try again.") from error
        tables = await self._usage.read(_table_stats)
        return StorageReport(
            database=DatabaseStats(
                path=self._usage.path.name,
                bytes=_file_bytes(self._usage),
                free_bytes=await self._usage.read(_free_bytes),
            ),
            stores=(*kept, *tables),
            models=await self._model_data(),
            disks=await self._disks.fullness(),
        )

    async def _stream_stats(self, name: str, kind: str, stream: str) -> StoreStats:
        # nats-py's own answer leaves out since when there are messages.
        msg = await self._bus.nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
        info = _info.decode(msg.data)
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
        known = {spec.name for spec in self._models.values.values()}
        rows = await self._usage.read(_by_model)
        return tuple(
            ModelData(
                model=model,
                requests=requests,
                loaded_s=loaded_ms / 1000,
                priced=self._prices.book.has(model),
                orphan=model not in known,
            )
            for model, requests, loaded_ms in rows
        )


def _by_model(reader: UsageReader) -> list[tuple[str, int, int]]:
    return reader.db.execute(
        "SELECT model, SUM(requests), SUM(loaded_ms) "
        "FROM model_days JOIN series USING (series) GROUP BY model"
    ).fetchall()


def _table_stats(reader: UsageReader) -> tuple[StoreStats, ...]:
    found = []
    for name in TABLES:
        oldest = f"MIN({_OLDEST[name]})" if name in _OLDEST else "NULL"
        count, at = reader.db.execute(f"SELECT COUNT(*), {oldest} FROM {name}").fetchone()  # noqa: S608 - our own names
        found.append(StoreStats(name=name, kind="table", messages=count, oldest_at=at))
    return tuple(found)


def _free_bytes(reader: UsageReader) -> int:
    free, size = (
        int(reader.db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("freelist_count", "page_size")
    )
    return free * size


def _file_bytes(usage: UsageKeeper) -> int:
    """The file with its log."""
    files = (usage.path, usage.path.with_name(f"{usage.path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
