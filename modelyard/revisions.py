"""What a bucket remembers of one key."""

from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

import msgspec
from nats.aio.msg import Msg

from modelyard import logging
from modelyard.bus import Bus
from modelyard.client.reading import read_stream
from modelyard.state import BY_HEADER
from schemas.buckets import Bucket

log = logging.get(__name__)
V = TypeVar("V")


class Revision(NamedTuple, Generic[V]):
    """One change: the value from then on, None where it was deleted."""

    revision: int
    at: float
    by: str
    value: V | None


async def read_revisions(bus: Bus, bucket: Bucket[V], key: str) -> list[Revision[V]]:
    """Newest first; what a version of before wrote and nobody understands any more is left out."""
    found = []
    for msg in await read_stream(bus, bucket.stream, bucket.subject(key)):
        try:
            found.append(_revision(bucket, msg))
        except msgspec.DecodeError as error:
            log.warning("value_not_understood", bucket=bucket.name, key=key, error=str(error))
    return found[::-1]


def _revision(bucket: Bucket[V], msg: Msg) -> Revision[V]:
    headers = msg.headers or {}
    return Revision(
        revision=int(headers["Nats-Sequence"]),
        at=datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp(),
        by=headers.get(BY_HEADER, "unknown"),
        value=bucket.decode(msg.data) if msg.data else None,
    )
