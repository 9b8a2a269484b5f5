"""Which requests nobody waits for any more; a cancel may come before its request does."""

import asyncio
import collections

from schemas.subjects import CANCEL

_REMEMBERED = 4096


class Cancels:
    """Hears every cancel, and remembers the last ones for requests still on their way."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Event] = {}
        self._early: collections.OrderedDict[str, None] = collections.OrderedDict()

    async def on_cancel(self, tokens: dict[str, str], _payload: bytes) -> None:
        request = tokens[CANCEL.tokens[0]]
        if request in self._running:
            self._running[request].set()
            return
        self._early[request] = None
        while len(self._early) > _REMEMBERED:
            self._early.popitem(last=False)

    def open(self, request: str) -> asyncio.Event:
        """The event that says `request` is cancelled; set already if it was."""
        event = self._running[request] = asyncio.Event()
        if request in self._early:
            event.set()
        return event

    def is_open(self, request: str) -> bool:
        return request in self._running

    def close(self, request: str) -> None:
        self._running.pop(request, None)
