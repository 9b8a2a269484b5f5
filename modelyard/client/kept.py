"""What the yard remembers: events of every kind, and the lines of an instance."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.reads import as_yard_errors, read_bucket, read_stream, replay, stored_messages
from schemas import buckets, streams, subjects
from schemas.audit import Audited
from schemas.base import Record, check_token
from schemas.errors import NotFound
from schemas.instances import Instance
from schemas.logs import LogLine
from schemas.models import find_model


class Event(Record):
    """One event as it is stored_messages: CloudEvents attributes in the headers, facts in the data."""

    subject: str
    headers: dict[str, str]
    data: Any


async def events(
    bus: Bus, since: float | None, *, follow: bool, kind: str | None = None
) -> AsyncGenerator[Event, None]:
    """Every event of the yard since `since`, oldest first; `kind`: `model`, `instance`, …"""
    bus.check(b"")
    stream = streams.EVENTS
    subject = stream.subject if kind is None else f"yard.event.{check_token(kind)}.>"
    messages = stored_messages(bus, stream, subject, since=since, follow=follow)
    with as_yard_errors():
        async with aclosing(messages):
            async for msg in messages:
                yield Event(subject=msg.subject, headers=dict(msg.headers or {}), data=_json(msg.data))


async def audited(bus: Bus, since: float | None, *, follow: bool) -> AsyncGenerator[Audited, None]:
    """Who changed what since `since`, oldest first."""
    bus.check(b"")
    with as_yard_errors():
        async with aclosing(replay(bus, subjects.AUDITED, since=since, follow=follow)) as found:
            async for each in found:
                yield each.payload


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data.decode(errors="replace")


async def logs(
    bus: Bus, name: str, *, since: float | None = None, grep: str | None = None, follow: bool
) -> AsyncGenerator[LogLine, None]:
    """The lines of the instance `name`, or of the model `name`; `grep`: only those with this text.

    Of a model, those of its newest instance; with `since` (unix seconds) those of all instances since then.
    """
    instance = await _instance(bus, name)
    model = None if since is None or instance == name else await _model(bus, name)
    of = {"instance": instance} if model is None else {}
    batches = replay(bus, subjects.INSTANCE_LOG, since=since, follow=follow, **of)
    wanted = (grep or "").casefold()
    with as_yard_errors():
        async with aclosing(batches):
            async for batch in batches:
                if model in (None, batch.payload.model):
                    for line in batch.payload.lines:
                        if wanted in line.text.casefold():
                            yield line


async def _model(bus: Bus, name: str) -> str:
    spec = find_model(name, await read_bucket(bus, buckets.MODELS))
    return spec.name if spec else name


async def _instance(bus: Bus, name: str) -> str:
    """Which instance `name` means; NotFound if there never was one, as far as the yard remembers."""
    known = await read_bucket(bus, buckets.INSTANCES)
    if name in known:
        return name
    spec = find_model(name, await read_bucket(bus, buckets.MODELS))
    model = spec.name if spec else name
    for instances in (list(known.values()), await _past(bus)):
        of_model = [each for each in instances if each.model == model]
        if of_model:
            return max(of_model, key=lambda each: each.changed_at).instance
        if any(each.instance == name for each in instances):
            return name
    what = "The model {} has not run in the last days." if spec else "There is no model or instance {}."
    raise NotFound(what.format(name), param="model")


async def _past(bus: Bus) -> list[Instance]:
    """Every state that an instance reached, as far back as events are stored_messages."""
    changed = subjects.INSTANCE_CHANGED
    messages = await read_stream(bus, streams.EVENTS.name, changed.wildcard)
    return [changed.decode(msg.data) for msg in messages]
