"""Health of webhooks: counted in memory, published in the bucket `webhook_states`."""

import asyncio
import time

import msgspec

from modelyard.bus import logs
from modelyard.bus.records import BucketStore
from schemas.errors import YardError
from schemas.webhooks import Undelivered, WebhookState
from services.monitor.webhooks.events import WebhookEvent

log = logs.get(__name__)

WRITE_S = 1.0
MAX_DEAD = 20
_replace = msgspec.structs.replace


class WebhookHealth:
    """Writes changed states once a second, undelivered events at once."""

    def __init__(self, store: BucketStore[WebhookState], states: dict[str, WebhookState]) -> None:
        self._store = store
        self._states = states
        self._dirty: set[str] = set()

    def state(self, name: str) -> WebhookState:
        """The state of a webhook; an empty one before its first delivery."""
        return self._states.get(name) or WebhookState(name=name)

    def record_success(self, name: str) -> None:
        state = self.state(name)
        if state.failing_since is not None:
            log.info("webhook_recovered", webhook=name)
        delivered = state.delivered + 1
        self._set(
            _replace(state, delivered=delivered, delivered_at=time.time(), failing_since=None, error=None)
        )

    def record_failure(self, name: str, error: str) -> None:
        state = self.state(name)
        if state.failing_since is None:
            log.warning("webhook_failed", webhook=name, error=error)
        self._set(_replace(state, failing_since=state.failing_since or time.time(), error=error))

    async def record_undelivered(self, name: str, event: WebhookEvent, attempts: int, error: str) -> None:
        """The last attempt for an event failed; stored before this returns."""
        dead = Undelivered(id=event.id, event=event.kind, at=time.time(), attempts=attempts, error=error)
        state = self.state(name)
        log.error("webhook_undelivered", webhook=name, event_id=event.id, attempts=attempts, error=error)
        self._set(_replace(state, dead=(dead, *state.dead)[:MAX_DEAD]))
        await self._write(name)

    async def delete(self, name: str) -> None:
        self._dirty.discard(name)
        if self._states.pop(name, None) is not None:
            await self._store.delete(name)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WRITE_S)
            for name in tuple(self._dirty):
                try:
                    await self._write(name)
                except YardError as error:
                    log.debug("webhook_state_unwritten", webhook=name, reason=error.message)

    def _set(self, state: WebhookState) -> None:
        self._states[state.name] = state
        self._dirty.add(state.name)

    async def _write(self, name: str) -> None:
        state = self._states.get(name)
        self._dirty.discard(name)
        if state is not None:
            try:
                await self._store.put(name, state)
            except YardError:
                self._dirty.add(name)
                raise
