"""Stored events of every kind, and audit records, from the past into the present."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.reads import as_yard_errors, replay, stored_messages
from schemas import streams, subjects
from schemas.audit import Audited
from schemas.base import Record


class Event(Record):
    """One stored event: CloudEvents attributes in the headers, facts in the data."""

    subject: str
    headers: dict[str, str]
    data: Any


async def events(
    bus: Bus, since: float | None = None, *, follow: bool = True, kind: str | None = None
) -> AsyncGenerator[Event, None]:
    """Every event since `since` (unix seconds; None: all that are stored), oldest first.

    With `follow` it continues with new ones, else it ends with the newest. `kind`: only events about a
    `model`, an `instance`, an `alert`, …: the third token of their subjects.
    """
    bus.check(b"")
    subject = streams.EVENTS.subject if kind is None else streams.EVENTS.about(kind)
    messages = stored_messages(bus, streams.EVENTS, subject, since=since, follow=follow)
    with as_yard_errors():
        async with aclosing(messages):
            async for msg in messages:
                yield Event(subject=msg.subject, headers=dict(msg.headers or {}), data=_decode(msg.data))


async def audit_records(
    bus: Bus, since: float | None = None, *, follow: bool = False
) -> AsyncGenerator[Audited, None]:
    """Every audited command since `since` (unix seconds; None: all that are stored), oldest first."""
    bus.check(b"")
    with as_yard_errors():
        async with aclosing(replay(bus, subjects.AUDITED, since=since, follow=follow)) as messages:
            async for message in messages:
                yield message.payload


def _decode(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data.decode(errors="replace")
