"""Who asked over NATS, and whether he still listens: the broker says so at every piece that nobody takes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from schemas.base import new_id

log = logs.get(__name__)

Say = Callable[[bytes], Awaitable[None]]
"""Send one piece of an answer."""


class Listeners:
    """Inboxes that answers go to."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = bus.nc.new_inbox()
        self._scopes: dict[str, asyncio.Task[None]] = {}
        self._gone: set[str] = set()

    async def open(self) -> None:
        """Hear of pieces that nobody took."""
        await self._bus.nc.subscribe(f"{self._inbox}.*", cb=self._on_untaken)

    @contextlib.asynccontextmanager
    async def listening(self, inbox: str) -> AsyncIterator[Say]:
        """What is inside is cancelled once nobody listens at `inbox`; it ends there, without an error."""
        token, task = new_id(), asyncio.current_task()
        assert task is not None

        async def say(piece: bytes) -> None:
            await self._bus.nc.publish(inbox, piece, reply=f"{self._inbox}.{token}")

        self._scopes[token] = task
        try:
            yield say
        except asyncio.CancelledError:
            if token not in self._gone or task.uncancel() > 0:
                raise
            log.info("nobody_listens", inbox=inbox)
        finally:
            del self._scopes[token]
            self._gone.discard(token)

    async def _on_untaken(self, msg: Msg) -> None:
        token = msg.subject.rpartition(".")[2]
        if (task := self._scopes.get(token)) is not None and token not in self._gone:
            self._gone.add(token)
            task.cancel()
