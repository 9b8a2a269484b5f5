"""A consumer of finished requests: each once, across outages of the broker."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import RETRY_PAUSE_S, Bus
from modelyard.bus.reads import stored_messages
from modelyard.bus.tasks import first_of
from schemas import streams, subjects
from schemas.requests import RequestFinished

log = logs.get(__name__)


class RequestConsumer:
    """Calls `on_request` with every usage record that is stored from now on."""

    def __init__(self, bus: Bus, on_request: Callable[[RequestFinished], None]) -> None:
        self._bus = bus
        self._on_request = on_request
        self._since: float | None = time.time()
        self._cursor: int | None = None
        """The stream sequence of the last record."""
        self._rebuild = asyncio.Event()

    async def catch_up(self, since: float, on_time: Callable[[float], None]) -> None:
        """Consume what was stored since then; `on_time` is called with the time before every record."""
        self._since = since
        async with aclosing(self._messages(follow=False)) as messages:
            async for msg in messages:
                on_time(msg.metadata.timestamp.timestamp())
                self._handle(msg)

    async def run(self) -> None:
        """Follow until cancelled; a reconnect makes a new consumer: the old one can end silently."""
        unsubscribe = self._bus.on_reconnect(self._rebuild.set)
        try:
            while True:
                self._rebuild.clear()
                try:
                    await first_of(self._follow(), self._rebuild.wait())
                except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
                    log.warning("request_consumer_failed", error=str(error) or type(error).__name__)
                await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            unsubscribe()

    async def _follow(self) -> None:
        async with aclosing(self._messages(follow=True)) as messages:
            async for msg in messages:
                self._handle(msg)

    def _messages(self, *, follow: bool) -> AsyncGenerator[Msg, None]:
        wildcard = subjects.REQUEST_FINISHED.wildcard
        since = None if self._cursor is not None else self._since
        return stored_messages(
            self._bus, streams.EVENTS, wildcard, since=since, after=self._cursor, follow=follow
        )

    def _handle(self, msg: Msg) -> None:
        self._cursor = msg.metadata.sequence.stream
        try:
            self._on_request(subjects.REQUEST_FINISHED.decode(msg.data))
        except (msgspec.DecodeError, RecursionError) as error:
            log.warning("request_decode_failed", subject=msg.subject, error=str(error))
