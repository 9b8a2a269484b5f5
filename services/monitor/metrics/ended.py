"""Following the requests that end, each once, across outages of the broker."""

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
from modelyard.bus.tasks import cancel
from schemas import streams, subjects
from schemas.requests import RequestFinished

log = logs.get(__name__)

Take = Callable[[RequestFinished], None]


class Ended:
    """Hands every usage record that is stored from now on to `take`."""

    def __init__(self, bus: Bus, take: Take) -> None:
        self._bus = bus
        self._take = take
        self._since: float | None = time.time()
        self._after: int | None = None
        self._rebuild = asyncio.Event()

    async def catch_up(self, since: float, each: Callable[[float], None]) -> None:
        """Take what was stored since then and until now; `each` hears the time before every record."""
        self._since = since
        async with aclosing(self._kept(follow=False)) as messages:
            async for msg in messages:
                each(msg.metadata.timestamp.timestamp())
                self._on(msg)

    async def run(self) -> None:
        """Follow until cancelled. What a broker sends can end silently when it was away, so we ask anew."""
        forget = self._bus.on_reconnect(self._rebuild.set)
        try:
            while True:
                self._rebuild.clear()
                await self._follow_or_log()
                await asyncio.sleep(RETRY_PAUSE_S)
        finally:
            forget()

    async def _follow_or_log(self) -> None:
        following = asyncio.create_task(self._follow())
        rebuild = asyncio.create_task(self._rebuild.wait())
        try:
            await asyncio.wait({following, rebuild}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            log.warning("requests_not_followed", error=str(error) or type(error).__name__)
        finally:
            await cancel(following, rebuild)

    async def _follow(self) -> None:
        async with aclosing(self._kept(follow=True)) as messages:
            async for msg in messages:
                self._on(msg)

    def _kept(self, *, follow: bool) -> AsyncGenerator[Msg, None]:
        wildcard = subjects.REQUEST_FINISHED.wildcard
        since = None if self._after is not None else self._since
        return stored_messages(
            self._bus, streams.EVENTS, wildcard, since=since, after=self._after, follow=follow
        )

    def _on(self, msg: Msg) -> None:
        self._after = msg.metadata.sequence.stream
        try:
            self._take(subjects.REQUEST_FINISHED.decode(msg.data))
        except (msgspec.DecodeError, RecursionError) as error:
            log.warning("request_not_understood", subject=msg.subject, error=str(error))
