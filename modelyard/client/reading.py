"""One-shot reads of what the broker keeps, without leaving a consumer behind."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from modelyard import logging
from modelyard.bus import Bus
from schemas import buckets
from schemas.buckets import Bucket
from schemas.errors import BrokerUnavailable, ModelNotFound, ServiceUnavailable
from schemas.models import ModelSpec, find_model

log = logging.get(__name__)
V = TypeVar("V")

_BATCH = 1000
_PATIENCE_S = 5.0


async def read_bucket(bus: Bus, bucket: Bucket[V], key: str = ">") -> dict[str, V]:
    """Every value of `bucket`, or the one under `key`, by key."""
    values: dict[str, V] = {}
    for msg in await read_stream(bus, bucket.stream, bucket.subject(key)):
        found = (msg.headers or {})["Nats-Subject"].removeprefix(bucket.subject(""))
        values.pop(found, None)
        # What was deleted or has expired stays a while as a message without a value.
        if msg.data:
            try:
                values[found] = bucket.decode(msg.data)
            except msgspec.DecodeError as error:
                log.warning("value_not_understood", bucket=bucket.name, key=found, error=str(error))
    return values


async def read_stream(bus: Bus, stream: str, subject: str) -> list[Msg]:
    """Every message of `stream` on `subject`, oldest first; its own subject is in `Nats-Subject`."""
    async with aclosing(pages(bus, stream, subject)) as found:
        return [msg async for page in found for msg in page]


async def pages(
    bus: Bus, stream: str, subject: str, *, first: int = 1, batch: int = _BATCH, max_bytes: int = 0
) -> AsyncGenerator[list[Msg], None]:
    """Messages from the sequence `first` on, oldest first, `batch` or `max_bytes` (0: any) at a time."""
    bus.check(b"")
    inbox = bus.nc.new_inbox()
    sub = await bus.nc.subscribe(inbox)
    sequence: int | None = first
    try:
        with said_as_ours():
            while sequence is not None:
                asked = {"seq": sequence, "next_by_subj": subject, "batch": batch, "max_bytes": max_bytes}
                await bus.nc.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(asked), reply=inbox)
                messages: list[Msg] = []
                sequence = await _read_page(sub, stream, messages)
                yield messages
    finally:
        if bus.connected:
            await sub.unsubscribe()


async def first_since(bus: Bus, stream: str, at: float) -> int | None:
    """The sequence of the first message stored at or after `at` (unix seconds); None if there is none yet."""
    start = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    asked = msgspec.json.encode({"start_time": start, "next_by_subj": ">", "batch": 1})
    inbox = bus.nc.new_inbox()
    sub = await bus.nc.subscribe(inbox)
    try:
        with said_as_ours():
            await bus.nc.publish(f"$JS.API.DIRECT.GET.{stream}", asked, reply=inbox)
            messages: list[Msg] = []
            await _read_page(sub, stream, messages)
        return int((messages[0].headers or {})["Nats-Sequence"]) if messages else None
    finally:
        if bus.connected:
            await sub.unsubscribe()


async def _read_page(sub: Subscription, stream: str, messages: list[Msg]) -> int | None:
    """Add one answer's messages; the sequence to go on at, or None at the end."""
    while True:
        async with asyncio.timeout(_PATIENCE_S):
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
def said_as_ours() -> Iterator[None]:
    """Turn what nats-py raises when the broker does not answer into an error of the yard."""
    try:
        yield
    except nats.js.errors.NotFoundError as error:
        raise ServiceUnavailable("No yard was ever started on this broker.") from error
    except (TimeoutError, nats.errors.Error) as error:
        raise BrokerUnavailable("The broker does not answer now.") from error


async def find(bus: Bus, model: str) -> ModelSpec:
    """The model of this name or alias; ModelNotFound if there is none."""
    spec = find_model(model, await read_bucket(bus, buckets.MODELS))
    if spec is None:
        raise ModelNotFound(f"There is no model {model} in the yard.", param="model")
    return spec
