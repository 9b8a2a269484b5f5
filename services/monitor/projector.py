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

log = logs.get(__name__)
T = TypeVar("T")

BATCH = 256
_FETCH_S = 2.0
"""A restart of the broker loses the pull in flight, which then ends only by this."""
_ACK_WAIT_S = 5.0
"""When the broker redelivers what a killed monitor had in flight; a commit takes milliseconds."""
_NAK_DELAY_S = 1.0
_GATHER_S = 0.1
"""Pause between two fetches: events that arrive in it share one transaction."""
_RETRY_PAUSE_S = 0.5
_INVALID_EVENT = (ArithmeticError, ValueError, TypeError, sqlite3.DataError, sqlite3.IntegrityError)
"""Errors that a redelivery does not cure; every other is taken for the disk's."""

Store = Callable[[list[T]], Awaitable[None]]
"""Stores a batch. It has to ignore duplicates: a death before the ack redelivers the batch."""


class UsageProjector(Generic[T]):
    def __init__(self, bus: Bus, consumer: str, subject: Subject[T], store: Store[T]) -> None:
        self._bus = bus
        self._consumer = consumer
        self._subject = subject
        self._store = store
        self._interrupted = False

    async def reset(self) -> None:
        """Delete the consumer: the next run projects everything that the stream still holds."""
        try:
            await self._bus.js.delete_consumer(streams.EVENTS.name, self._consumer)
        except nats.js.errors.NotFoundError:
            return
        except (TimeoutError, nats.errors.Error) as error:
            raise BrokerUnavailable("The broker does not answer now; try again in a moment.") from error

    async def run(self) -> None:
        """Project until cancelled, through outages of the broker and of the disk."""
        while True:
            try:
                await self._consume()
            except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
                if not self._interrupted:
                    log.warning(
                        "projection_interrupted",
                        consumer=self._consumer,
                        reason=str(error) or type(error).__name__,
                    )
                self._interrupted = True
            except Exception:
                # A full disk, for example. What was not stored was not acknowledged and is redelivered.
                log.exception("projection_failed", consumer=self._consumer)
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def _consume(self) -> None:
        self._bus.check(b"")
        await self._bus.js.add_consumer(streams.EVENTS.name, self._config())
        pull = await self._bus.js.pull_subscribe_bind(self._consumer, streams.EVENTS.name)
        try:
            while self._bus.connected:
                if messages := await _fetch(pull):
                    await self._project(messages)
                    await asyncio.sleep(_GATHER_S)
                if self._interrupted:
                    log.info("projection_resumed", consumer=self._consumer)
                    self._interrupted = False
        finally:
            if not self._bus.nc.is_closed:
                await pull.unsubscribe()

    def _config(self) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            name=self._consumer,
            durable_name=self._consumer,
            filter_subject=self._subject.wildcard,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=4 * BATCH,
        )

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


async def _fetch(pull: JetStreamContext.PullSubscription) -> list[Msg]:
    try:
        return await pull.fetch(BATCH, timeout=_FETCH_S)
    except TimeoutError:
        return []
