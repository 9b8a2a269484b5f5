"""Reading a kept kind (events, metrics, logs) from the past into the present."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Generic, TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.js import api

from modelyard import logging
from modelyard.bus import Bus
from schemas import streams
from schemas.subject import Subject

log = logging.get(__name__)
T = TypeVar("T")


class Replayed(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One kept message."""

    subject: str
    tokens: dict[str, str]
    payload: T
    stored_at: float


async def replay(
    bus: Bus, subject: Subject[T], *, since: float | None = None, follow: bool = True, **tokens: str
) -> AsyncGenerator[Replayed[T], None]:
    """Messages of `subject` stored at or after `since` (unix seconds; None: all), oldest first.

    With `follow` it goes on with what comes; without, it ends when everything there is was given.
    """
    stream, filter_subject = streams.BY_KIND[subject.kind], subject.matching(**tokens)
    async with aclosing(kept(bus, stream, filter_subject, since=since, follow=follow)) as messages:
        async for msg in messages:
            try:
                message = _replayed(subject, msg)
            except msgspec.DecodeError as error:
                log.warning("message_not_understood", subject=msg.subject, error=str(error))
            else:
                yield message


async def kept(
    bus: Bus,
    stream: streams.Stream,
    filter_subject: str,
    *,
    since: float | None = None,
    after: int | None = None,
    follow: bool = True,
) -> AsyncGenerator[Msg, None]:
    """As `replay`, for any subjects of one stream, undecoded. `after`: begin behind this sequence."""
    config = _config(since) if after is None else _config_after(after)
    sub = await bus.js.subscribe(filter_subject, stream=stream.name, ordered_consumer=True, config=config)
    try:
        info = await sub.consumer_info()
        left = (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)
        while follow or left:
            msg = await sub.next_msg(timeout=None)
            left -= 1
            yield msg
    finally:
        if bus.connected:
            await sub.unsubscribe()


def _config(since: float | None) -> api.ConsumerConfig:
    if since is None:
        return api.ConsumerConfig(deliver_policy=api.DeliverPolicy.ALL)
    return api.ConsumerConfig(
        deliver_policy=api.DeliverPolicy.BY_START_TIME, opt_start_time=datetime.fromtimestamp(since, UTC)
    )


def _config_after(sequence: int) -> api.ConsumerConfig:
    return api.ConsumerConfig(deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=sequence + 1)


def _replayed(subject: Subject[T], msg: Msg) -> Replayed[T]:
    return Replayed(
        subject=msg.subject,
        tokens=subject.parse(msg.subject),
        payload=subject.decode(msg.data),
        stored_at=msg.metadata.timestamp.timestamp(),
    )
