"""Projects events of a stream into a store: a durable consumer that acknowledges what is on disk."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from schemas import streams
from schemas.errors import BrokerUnavailable
from schemas.subject import Subject
from services.monitor.event_consumer import EventConsumer, fetch

log = logs.get(__name__)
T = TypeVar("T")

BATCH = 256
_ACK_WAIT_S = 5.0
"""When the broker redelivers what a killed monitor had in flight; a commit takes milliseconds."""
_NAK_DELAY_S = 1.0
_GATHER_S = 0.1
"""Pause between two fetches: events that arrive in it share one transaction."""
_INVALID_EVENT = (ArithmeticError, ValueError, TypeError, sqlite3.DataError, sqlite3.IntegrityError)
"""Errors that a redelivery does not cure; every other is taken for the disk's."""

Store = Callable[[list[T]], Awaitable[None]]
"""Stores a batch. It has to ignore duplicates: a death before the ack redelivers the batch."""


class UsageProjector(EventConsumer, Generic[T]):
    def __init__(self, bus: Bus, consumer: str, subject: Subject[T], store: Store[T]) -> None:
        config = api.ConsumerConfig(
            name=consumer,
            durable_name=consumer,
            filter_subject=subject.wildcard,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=4 * BATCH,
        )
        super().__init__(bus, config)
        self._consumer = consumer
        self._subject = subject
        self._store = store

    async def reset(self) -> None:
        """Delete the consumer: the next run projects everything that the stream still holds."""
        try:
            await self.bus.js.delete_consumer(streams.EVENTS.name, self._consumer)
        except nats.js.errors.NotFoundError:
            return
        except (TimeoutError, nats.errors.Error) as error:
            raise BrokerUnavailable("The broker does not answer now; try again in a moment.") from error

    async def _consume_batch(self, pull: JetStreamContext.PullSubscription) -> None:
        if messages := await fetch(pull, BATCH):
            await self._project(messages)
            await asyncio.sleep(_GATHER_S)

    async def _project(self, messages: Sequence[Msg]) -> None:
        payloads: list[T] = []
        decoded: list[Msg] = []
        for msg in messages:
            try:
                payloads.append(self._subject.decode(msg.data))
                decoded.append(msg)
            except (ValueError, RecursionError) as error:
                log.warning("event_decode_failed", subject=msg.subject, error=str(error))
                await msg.term()
        if decoded:
            await self._store_and_ack(payloads, decoded)

    async def _store_and_ack(self, payloads: list[T], messages: list[Msg]) -> None:
        try:
            await self._store(payloads)
        except _INVALID_EVENT as error:
            await self._isolate_invalid(payloads, messages, error)
            return
        except Exception:
            for msg in messages:
                await msg.nak(delay=_NAK_DELAY_S)
            raise
        for msg in messages:
            await msg.ack()

    async def _isolate_invalid(self, payloads: list[T], messages: list[Msg], error: Exception) -> None:
        """Store the events one by one: an invalid one must not block those around and after it."""
        if len(messages) == 1:
            log.error("event_store_failed", subject=messages[0].subject, exc_info=error)
            await messages[0].term()
            return
        for payload, msg in zip(payloads, messages, strict=True):
            await self._store_and_ack([payload], [msg])
