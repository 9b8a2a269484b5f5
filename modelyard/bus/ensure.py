"""Create missing streams and buckets of the contract, and migrate those of the version before."""

import asyncio
import contextlib
import time
from operator import attrgetter
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import api

from modelyard.bus import logs
from modelyard.bus.connection import RETRY_PAUSE_S, Bus
from modelyard.bus.reads import read_stream
from modelyard.bus.records import BucketStore
from schemas import buckets, streams
from schemas.base import Role
from schemas.buckets import Bucket
from schemas.errors import BrokerUnavailable, Conflict

log = logs.get(__name__)

_NO_STORAGE = 10047
_MARKER_TTL_S = 1.0
"""Lifetime of a removal marker, through which watchers see an expiry."""


async def ensure_all(bus: Bus, *, timeout_s: float = 10.0) -> None:
    """Create every missing stream and bucket of the contract. JetStream may still be starting."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            await _ensure(bus)
            return
        except nats.js.errors.BadRequestError as error:
            raise BrokerUnavailable(
                f"The broker has a stream with another configuration: {error.description}."
            ) from error
        except (TimeoutError, nats.errors.Error) as error:
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"JetStream did not come up on the broker: {error}.") from error
        await asyncio.sleep(RETRY_PAUSE_S)


async def _ensure(bus: Bus) -> None:
    await asyncio.gather(
        *(_ensure_stream(bus, stream) for stream in streams.ALL),
        *(ensure_bucket(bus, bucket) for bucket in buckets.ALL),
    )
    await migrate_buckets(bus)


async def _ensure_stream(bus: Bus, stream: streams.Stream) -> None:
    if stream.migrated_by is not None and (existing := await _existing(bus, stream.name)) is not None:
        config = _stream_config(stream)
        migrated = attrgetter("max_bytes", "max_age", "compression")
        if migrated(existing) != migrated(config) and bus.role is stream.migrated_by:
            await bus.js.update_stream(config)
        return
    try:
        await bus.js.add_stream(_stream_config(stream))
    except nats.js.errors.ServerError as error:
        if error.err_code != _NO_STORAGE:
            raise
        # The broker sums up reservations before it notices that the stream exists.
        if await _existing(bus, stream.name) is not None:
            return
        raise BrokerUnavailable(
            f"The broker's disk has no room for {stream.name}, which may take "
            f"{stream.max_bytes // 1024**3} GiB; free some, or give the broker another disk."
        ) from error


async def _existing(bus: Bus, name: str) -> api.StreamConfig | None:
    """The stream's configuration on the broker; None if it does not exist."""
    try:
        return (await bus.js.stream_info(name)).config
    except nats.js.errors.NotFoundError:
        return None


async def ensure_bucket(bus: Bus, bucket: Bucket[Any]) -> None:
    """The writer of a bucket extends the shorter history that an earlier version created."""
    existing = await _existing(bus, bucket.stream) if bucket.history > 1 else None
    if existing is None:
        await bus.js.add_stream(_bucket_config(bucket))
    elif (existing.max_msgs_per_subject or 0) < bucket.history and bus.role in bucket.writers:
        await bus.js.update_stream(_bucket_config(bucket))


def _stream_config(stream: streams.Stream) -> api.StreamConfig:
    queue = stream.work_queue
    return api.StreamConfig(
        name=stream.name,
        subjects=[stream.subject],
        retention=api.RetentionPolicy.WORK_QUEUE if queue else api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.NEW if queue or stream.once else api.DiscardPolicy.OLD,
        discard_new_per_subject=queue or stream.once,
        max_msgs_per_subject=stream.max_msgs_per_subject,
        max_age=stream.max_age_s,
        max_bytes=stream.max_bytes,
        duplicate_window=stream.duplicate_window_s,
        storage=api.StorageType.FILE,
        compression=api.StoreCompression.S2 if stream.compressed else None,
        allow_direct=True,
    )


def _bucket_config(bucket: Bucket[Any]) -> api.StreamConfig:
    """As NATS' key-value clients expect it, with per-key expiry where the contract requires it."""
    return api.StreamConfig(
        name=bucket.stream,
        subjects=[bucket.subject(">")],
        max_msgs_per_subject=bucket.history,
        discard=api.DiscardPolicy.NEW,
        allow_direct=True,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_msg_ttl=True,
        subject_delete_marker_ttl=_MARKER_TTL_S if bucket.expires else None,
        storage=api.StorageType.MEMORY if bucket.transient else api.StorageType.FILE,
    )


async def migrate_buckets(bus: Bus) -> None:
    """Rewrite what this role writes under the names of today; safe to repeat and to interrupt."""
    for bucket in buckets.ALL:
        if bucket.renamed_fields and bus.role in bucket.writers:
            await _rename_fields(bus, bucket)
    if bus.role is Role.SUPERVISOR:
        for stream in buckets.RETIRED_STREAMS:
            with contextlib.suppress(nats.js.errors.NotFoundError):
                await bus.js.delete_stream(stream)
                log.info("bucket_retired", stream=stream)


def renamed(value: dict[str, Any], names: dict[str, str]) -> dict[str, Any] | None:
    """`value` with its fields renamed; None if it has none of the old ones."""
    if not names.keys() & value.keys():
        return None
    return {names.get(name, name): field for name, field in value.items()}


async def _rename_fields(bus: Bus, bucket: Bucket[Any]) -> None:
    newest: dict[str, Msg] = {}
    for msg in await read_stream(bus, bucket.stream, bucket.subject(">")):
        newest[(msg.headers or {})["Nats-Subject"].removeprefix(bucket.subject(""))] = msg
    for key, msg in newest.items():
        try:
            value = renamed(msgspec.json.decode(msg.data), dict(bucket.renamed_fields)) if msg.data else None
            if value is None:
                continue
            revision = int((msg.headers or {})["Nats-Sequence"])
            await BucketStore(bus, bucket).put(key, msgspec.convert(value, bucket.value), last=revision)
            log.info("value_migrated", bucket=bucket.name, key=key)
        except msgspec.DecodeError as error:
            log.warning("value_not_migrated", bucket=bucket.name, key=key, error=str(error))
        except Conflict:
            # Its writer was quicker, and writes the names of today.
            continue
