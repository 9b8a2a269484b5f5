"""Reads of stored data: buckets, histories of a key, and streams from the past into the present."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import api

from modelyard.bus import logs
from modelyard.bus.connection import RETRY_PAUSE_S, Bus
from modelyard.bus.consumer import ConsumerLost, ordered_consumer
from modelyard.bus.records import BY_HEADER
from schemas import buckets, streams
from schemas.buckets import Bucket
from schemas.errors import BrokerUnavailable, ModelNotFound, ServiceUnavailable
from schemas.models import ModelSpec, find_model
from schemas.subject import Subject

log = logs.get(__name__)
T = TypeVar("T")
V = TypeVar("V")

_BATCH = 1000
_TIMEOUT_S = 5.0


async def read_bucket(bus: Bus, bucket: Bucket[V], key: str = ">") -> dict[str, V]:
    """All values of `bucket`, or the one under `key`, by key."""
    values: dict[str, V] = {}
    for msg in await read_stream(bus, bucket.stream, bucket.subject(key)):
        found = (msg.headers or {})["Nats-Subject"].removeprefix(bucket.subject(""))
        values.pop(found, None)
        # What was deleted or has expired stays a while as a message without a value.
        if msg.data:
            try:
                values[found] = bucket.decode(msg.data)
            except msgspec.DecodeError as error:
                log.warning("value_undecodable", bucket=bucket.name, key=found, error=str(error))
    return values


async def read_stream(bus: Bus, stream: str, subject: str) -> list[Msg]:
    """All messages of `stream` on `subject`, oldest first; each has its subject in `Nats-Subject`."""
    async with aclosing(read_pages(bus, stream, subject)) as found:
        return [msg async for page in found for msg in page]


async def read_pages(
    bus: Bus, stream: str, subject: str, *, first: int = 1, batch: int = _BATCH, max_bytes: int = 0
) -> AsyncGenerator[list[Msg], None]:
    """Messages from the sequence `first` on, oldest first, `batch` or `max_bytes` (0: any) at a time."""
    bus.check(b"")
    query = {"seq": first, "next_by_subj": subject, "batch": batch, "max_bytes": max_bytes}
    async with aclosing(_query_pages(bus, stream, query)) as pages:
        async for page in pages:
            yield page


async def first_sequence_since(bus: Bus, stream: str, at: float) -> int | None:
    """The sequence of the first message stored at or after `at` (unix seconds); None: no such message."""
    start = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    query = {"start_time": start, "next_by_subj": ">", "batch": 1}
    async with aclosing(_query_pages(bus, stream, query)) as pages:
        messages = await anext(pages)
    return int((messages[0].headers or {})["Nats-Sequence"]) if messages else None


async def _query_pages(bus: Bus, stream: str, query: dict[str, Any]) -> AsyncGenerator[list[Msg], None]:
    """The messages that a direct get finds, a list for each query that it takes."""
    inbox = bus.nc.new_inbox()
    sub = await bus.nc.subscribe(inbox)
    try:
        with as_yard_errors():
            more = True
            while more:
                await bus.nc.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query), reply=inbox)
                messages: list[Msg] = []
                query["seq"] = await _read_page(sub, stream, messages)
                more = query["seq"] is not None
                yield messages
    finally:
        if bus.connected:
            await sub.unsubscribe()


async def _read_page(sub: Subscription, stream: str, messages: list[Msg]) -> int | None:
    """Append the messages of one reply; returns the sequence to continue at, or None at the end."""
    while True:
        async with asyncio.timeout(_TIMEOUT_S):
            msg = await sub.next_msg(timeout=None)
        headers = msg.headers or {}
        match headers.get("Status"):
            case None:
                messages.append(msg)
            case "204":
                more = int(headers.get("Nats-Num-Pending", 0))
                return int(headers["Nats-Last-Sequence"]) + 1 if more else None
            case "404":
                return None
            case "503":
                raise ServiceUnavailable(f"The broker has no {stream}: no yard was ever started on it.")
            case status:
                raise BrokerUnavailable(f"The broker did not give out {stream} ({status}).")


@contextmanager
def as_yard_errors() -> Iterator[None]:
    """Turn what nats-py raises when the broker does not answer into an error of the yard."""
    try:
        yield
    except nats.js.errors.NotFoundError as error:
        raise ServiceUnavailable("No yard was ever started on this broker.") from error
    except (TimeoutError, nats.errors.Error) as error:
        raise BrokerUnavailable("The broker does not answer now.") from error


async def read_model(bus: Bus, model: str) -> ModelSpec:
    """The model of this name or alias; ModelNotFound if there is none."""
    spec = find_model(model, await read_bucket(bus, buckets.MODELS))
    if spec is None:
        raise ModelNotFound(f"There is no model {model} in the yard.", param="model")
    return spec


class StoredMessage(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One message of a stream, decoded."""

    subject: str
    tokens: dict[str, str]
    payload: T
    stored_at: float


async def replay(
    bus: Bus, subject: Subject[T], *, since: float | None = None, follow: bool = True, **tokens: str
) -> AsyncGenerator[StoredMessage[T], None]:
    """Messages of `subject` stored at or after `since` (unix seconds; None: all), oldest first.

    `follow`: continue with new messages; otherwise end after the last stored one.
    """
    stream, filter_subject = streams.BY_KIND[subject.kind], subject.matching(**tokens)
    async with aclosing(stored_messages(bus, stream, filter_subject, since=since, follow=follow)) as messages:
        async for msg in messages:
            try:
                message = _replayed(subject, msg)
            except msgspec.DecodeError as error:
                log.warning("message_undecodable", subject=msg.subject, error=str(error))
            else:
                yield message


async def stored_messages(
    bus: Bus,
    stream: streams.Stream,
    filter_subject: str,
    *,
    since: float | None = None,
    after: int | None = None,
    follow: bool = True,
) -> AsyncGenerator[Msg, None]:
    """As `replay`, for any subjects of one stream, undecoded. `after`: start behind this sequence."""
    config = _config(since) if after is None else _config_after(after)
    last, left = after, None
    while True:
        try:
            async with ordered_consumer(bus, stream.name, filter_subject, config) as consumer:
                left = consumer.pending if left is None else min(left, consumer.pending)
                while follow or left > 0:
                    msg = await consumer.next()
                    left, last = left - 1, msg.metadata.sequence.stream
                    yield msg
                return
        except ConsumerLost as error:
            log.info("consumer_lost", stream=stream.name, error=str(error))
        except (TimeoutError, nats.errors.Error):
            # Once begun, it continues where it was when the broker is back.
            if left is None or bus.nc.is_closed:
                raise
            await asyncio.sleep(RETRY_PAUSE_S)
        config = config if last is None else _config_after(last)


def _config(since: float | None) -> api.ConsumerConfig:
    if since is None:
        return api.ConsumerConfig(deliver_policy=api.DeliverPolicy.ALL)
    return api.ConsumerConfig(
        deliver_policy=api.DeliverPolicy.BY_START_TIME, opt_start_time=datetime.fromtimestamp(since, UTC)
    )


def _config_after(sequence: int) -> api.ConsumerConfig:
    return api.ConsumerConfig(deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=sequence + 1)


def _replayed(subject: Subject[T], msg: Msg) -> StoredMessage[T]:
    return StoredMessage(
        subject=msg.subject,
        tokens=subject.parse(msg.subject),
        payload=subject.decode(msg.data),
        stored_at=msg.metadata.timestamp.timestamp(),
    )


class Revision(NamedTuple, Generic[V]):
    """One change: the value from then on, None where it was deleted."""

    revision: int
    at: float
    by: str
    value: V | None


async def read_revisions(bus: Bus, bucket: Bucket[V], key: str) -> list[Revision[V]]:
    """Newest first; values of an earlier version that cannot be decoded are left out."""
    found = []
    for msg in await read_stream(bus, bucket.stream, bucket.subject(key)):
        try:
            found.append(_revision(bucket, msg))
        except msgspec.DecodeError as error:
            log.warning("value_undecodable", bucket=bucket.name, key=key, error=str(error))
    return found[::-1]


def _revision(bucket: Bucket[V], msg: Msg) -> Revision[V]:
    headers = msg.headers or {}
    return Revision(
        revision=int(headers["Nats-Sequence"]),
        at=datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp(),
        by=headers.get(BY_HEADER, "unknown"),
        value=bucket.decode(msg.data) if msg.data else None,
    )
