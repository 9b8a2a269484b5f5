"""Data of the version before: fields that were renamed since, and buckets that are no more."""

from typing import Any

import msgspec
import nats.js.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_stream
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.base import Role
from schemas.buckets import Bucket
from schemas.errors import Conflict

log = logs.get(__name__)


async def migrate_buckets(bus: Bus) -> None:
    """Rewrite what this role writes under the names of today; safe to repeat and to interrupt."""
    for bucket in buckets.ALL:
        if bucket.renamed_fields and bus.role in bucket.writers:
            await _rename_fields(bus, bucket)
    if bus.role is Role.SUPERVISOR:
        for stream in buckets.RETIRED_STREAMS:
            await _delete_stream(bus, stream)


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


async def _delete_stream(bus: Bus, stream: str) -> None:
    try:
        await bus.js.delete_stream(stream)
    except nats.js.errors.NotFoundError:
        return
    log.info("bucket_retired", stream=stream)
