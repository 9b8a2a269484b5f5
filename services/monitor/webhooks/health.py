"""How each hook does, for everybody to see."""

import asyncio
import time

import msgspec

from modelyard.bus import logs
from schemas.errors import YardError
from schemas.webhooks import Undelivered, WebhookState
from services.monitor.owned import Owned
from services.monitor.webhooks.occurrence import Occurrence

log = logs.get(__name__)

EVERY_S = 1.0
MAX_DEAD = 20
_replace = msgspec.structs.replace


class Health:
    """Counts in memory, and writes what changed once a second; what was given up is written at once."""

    def __init__(self, own: Owned[WebhookState]) -> None:
        self._own = own
        self._states = dict(own.values)
        self._dirty: set[str] = set()

    def of(self, name: str) -> WebhookState:
        """How it does; of a new one, that nothing happened yet."""
        return self._states.get(name) or WebhookState(name=name)

    def went_well(self, name: str) -> None:
        """One more is delivered."""
        state = self.of(name)
        if state.failing_since is not None:
            log.info("webhook_works_again", webhook=name)
        self._set(
            _replace(
                state, delivered=state.delivered + 1, delivered_at=time.time(), failing_since=None, error=None
            )
        )

    def failed(self, name: str, error: str) -> None:
        """It was not taken; it is tried again."""
        state = self.of(name)
        if state.failing_since is None:
            log.warning("webhook_fails", webhook=name, error=error)
        self._set(_replace(state, failing_since=state.failing_since or time.time(), error=error))

    async def give_up(self, name: str, occurrence: Occurrence, attempts: int, error: str) -> None:
        """Note, for good, that it was never delivered."""
        dead = Undelivered(
            id=occurrence.id, event=occurrence.event, at=time.time(), attempts=attempts, error=error
        )
        state = self.of(name)
        log.error("webhook_gave_up", webhook=name, event_id=occurrence.id, attempts=attempts, error=error)
        self._set(_replace(state, dead=(dead, *state.dead)[:MAX_DEAD]))
        await self._write(name)

    async def forget(self, name: str) -> None:
        """The hook is gone."""
        self._states.pop(name, None)
        self._dirty.discard(name)
        if name in self._own.values:
            await self._own.delete(name)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            for name in tuple(self._dirty):
                try:
                    await self._write(name)
                except YardError as error:
                    log.debug("webhook_state_waits", webhook=name, reason=error.message)

    def _set(self, state: WebhookState) -> None:
        self._states[state.name] = state
        self._dirty.add(state.name)

    async def _write(self, name: str) -> None:
        state = self._states.get(name)
        self._dirty.discard(name)
        if state is not None:
            try:
                await self._own.put(name, state)
            except YardError:
                self._dirty.add(name)
                raise
