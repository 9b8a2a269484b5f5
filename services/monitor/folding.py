"""A durable consumer whose messages are acknowledged once they are on disk: complete, whatever dies."""

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
"""A restart of the broker loses the pull under way, which then ends only by this."""
_ACK_WAIT_S = 5.0
"""After this the broker gives again what a killed monitor had in its hands; a commit takes milliseconds."""
_AGAIN_S = 1.0
"""When to give again what the disk did not take."""
_GATHER_S = 0.1
"""A fetch brings what is there already, often one: between two, a few may gather for one transaction."""
_RETRY_PAUSE_S = 0.5
_EVENTS_FAULT = (ArithmeticError, ValueError, TypeError, sqlite3.DataError, sqlite3.IntegrityError)
"""It will be no better when it comes again; all else is the disk's fault."""

Take = Callable[[list[T]], Awaitable[None]]
"""Stores what came. Dying before the acknowledgement makes duplicates, which it has to ignore."""


class Folder(Generic[T]):
    """Folds the events of one subject into a store."""

    def __init__(self, bus: Bus, consumer: str, subject: Subject[T], take: Take[T]) -> None:
        self._bus = bus
        self._consumer = consumer
        self._subject = subject
        self._take = take
        self._interrupted = False

    async def restart(self) -> None:
        """Have everything that the stream still holds come again."""
        try:
            await self._bus.js.delete_consumer(streams.EVENTS.name, self._consumer)
        except nats.js.errors.NotFoundError:
            return
        except (TimeoutError, nats.errors.Error) as error:
            raise BrokerUnavailable("The broker does not answer now; try again in a moment.") from error

    async def run(self) -> None:
        """Fold until cancelled, through outages of the broker and of the disk."""
        while True:
            try:
                await self._follow()
            except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
                if not self._interrupted:
                    log.warning(
                        "folding_interrupted",
                        consumer=self._consumer,
                        reason=str(error) or type(error).__name__,
                    )
                self._interrupted = True
            except Exception:
                # A full disk, say. What was not stored was not acknowledged, so it comes again.
                log.exception("not_stored", consumer=self._consumer)
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def _follow(self) -> None:
        """Until the broker is away or something fails; the consumer is made where it is missing."""
        self._bus.check(b"")
        await self._bus.js.add_consumer(streams.EVENTS.name, self._config())
        pull = await self._bus.js.pull_subscribe_bind(self._consumer, streams.EVENTS.name)
        try:
            while self._bus.connected:
                if messages := await _fetch(pull):
                    await self._fold(messages)
                    await asyncio.sleep(_GATHER_S)
                if self._interrupted:
                    log.info("folding_goes_on", consumer=self._consumer)
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

    async def _fold(self, messages: Sequence[Msg]) -> None:
        payloads: list[T] = []
        understood: list[Msg] = []
        for msg in messages:
            try:
                payloads.append(self._subject.decode(msg.data))
                understood.append(msg)
            except (ValueError, RecursionError) as error:
                log.warning("event_not_understood", subject=msg.subject, error=str(error))
                await msg.term()
        if understood:
            await self._store_and_answer(payloads, understood)

    async def _store_and_answer(self, payloads: list[T], messages: list[Msg]) -> None:
        try:
            await self._take(payloads)
        except _EVENTS_FAULT as error:
            await self._find_faulty(payloads, messages, error)
            return
        except Exception:
            for msg in messages:
                await msg.nak(delay=_AGAIN_S)
            raise
        for msg in messages:
            await msg.ack()

    async def _find_faulty(self, payloads: list[T], messages: list[Msg], error: Exception) -> None:
        """One at a time: what cannot be stored must not keep the others, and all that come after, waiting."""
        if len(messages) == 1:
            log.error("event_cannot_be_stored", subject=messages[0].subject, exc_info=error)
            await messages[0].term()
            return
        for payload, msg in zip(payloads, messages, strict=True):
            await self._store_and_answer([payload], [msg])


async def _fetch(pull: JetStreamContext.PullSubscription) -> list[Msg]:
    """What there is, or what comes first; nothing after a while."""
    try:
        return await pull.fetch(BATCH, timeout=_FETCH_S)
    except TimeoutError:
        return []
