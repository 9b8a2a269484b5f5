"""Create the streams and buckets of the contract where they are missing."""

import asyncio
import time
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import api

from modelyard.bus.connection import RETRY_PAUSE_S, Bus
from modelyard.bus.migration import migrate_buckets
from schemas import buckets, streams
from schemas.errors import BrokerUnavailable

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
        differs = (existing.max_bytes, existing.max_age, existing.compression) != (
            config.max_bytes,
            config.max_age,
            config.compression,
        )
        if differs and bus.role is stream.migrated_by:
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


async def ensure_bucket(bus: Bus, bucket: buckets.Bucket[Any]) -> None:
    """The writer of a bucket extends the shorter history that an earlier version created."""
    existing = await _existing_history(bus, bucket) if bucket.history > 1 else None
    if existing is None:
        await bus.js.add_stream(_bucket_config(bucket))
    elif existing < bucket.history and bus.role in bucket.writers:
        await bus.js.update_stream(_bucket_config(bucket))


async def _existing_history(bus: Bus, bucket: buckets.Bucket[Any]) -> int | None:
    """How many values per key the broker retains; None if the bucket does not exist."""
    existing = await _existing(bus, bucket.stream)
    return None if existing is None else existing.max_msgs_per_subject


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


def _bucket_config(bucket: buckets.Bucket[Any]) -> api.StreamConfig:
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
