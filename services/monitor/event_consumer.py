"""A durable pull consumer of the event stream, run through outages of the broker."""

import asyncio
from abc import ABC, abstractmethod

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from schemas import streams
from schemas.errors import BrokerUnavailable

log = logs.get(__name__)

_FETCH_S = 2.0
"""A restart of the broker loses the pull in flight, which then ends only by this."""
_RETRY_PAUSE_S = 0.5


class EventConsumer(ABC):
    """Consumes events in batches; what a batch does not acknowledge is redelivered."""

    def __init__(self, bus: Bus, config: api.ConsumerConfig) -> None:
        self.bus = bus
        self._config = config
        self._interrupted = False

    async def run(self) -> None:
        """Consume until cancelled, through outages of the broker and failed batches."""
        consumer = self._config.durable_name
        while True:
            try:
                await self._consume()
            except (TimeoutError, nats.errors.Error, BrokerUnavailable) as error:
                if not self._interrupted:
                    reason = str(error) or type(error).__name__
                    log.warning("event_consumer_interrupted", consumer=consumer, reason=reason)
                self._interrupted = True
            except Exception:
                # A full disk, for example.
                log.exception("event_consumer_failed", consumer=consumer)
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def _consume(self) -> None:
        self.bus.check(b"")
        await self._ensure_consumer()
        pull = await self.bus.js.pull_subscribe_bind(self._config.durable_name, streams.EVENTS.name)
        try:
            while self.bus.connected:
                await self._consume_batch(pull)
                if self._interrupted:
                    log.info("event_consumer_resumed", consumer=self._config.durable_name)
                    self._interrupted = False
        finally:
            if not self.bus.nc.is_closed:
                await pull.unsubscribe()

    async def _ensure_consumer(self) -> None:
        await self.bus.js.add_consumer(streams.EVENTS.name, self._config)

    @abstractmethod
    async def _consume_batch(self, pull: JetStreamContext.PullSubscription) -> None:
        """Fetch the next events and handle them."""


async def fetch(pull: JetStreamContext.PullSubscription, count: int) -> list[Msg]:
    """Up to `count` events; none if none arrives in time."""
    try:
        return await pull.fetch(count, timeout=_FETCH_S)
    except TimeoutError:
        return []
