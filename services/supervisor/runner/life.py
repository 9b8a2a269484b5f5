"""The instance record while its runner lives: legal steps only, each an event, renewed before it expires."""

import asyncio
import contextlib
import time
from typing import Any

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.errors import BrokerUnavailable
from schemas.instances import COMING, NEXT_STATES, Instance, InstanceState, Reason, Reserved

log = logs.get(__name__)

TTL_S = 6
"""A record not renewed for so long disappears, and with it the belief that its runner lives."""
RENEW_S = 2.0
BUSY_S = 0.5
"""How soon a changed number of busy slots shows."""


class Life:
    """Owns the record of one instance."""

    def __init__(self, bus: Bus, tasks: Tasks, instance: Instance) -> None:
        self.instance = instance
        self.last_renewed = time.monotonic()
        self._bus = bus
        self._tasks = tasks
        self._store = BucketStore(bus, buckets.INSTANCES)
        self._dirty = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    async def step(self, state: InstanceState, reason: Reason | None = None, **changes: Any) -> None:
        """Go to `state`, with further `changes` of the record, and say so."""
        if state not in NEXT_STATES[self.instance.state]:
            raise ValueError(f"{self.instance.state} cannot become {state}")
        changes |= {"state": state, "reason": reason or self.instance.reason, "changed_at": time.time()}
        self.instance = msgspec.structs.replace(self.instance, **changes)
        log.info("instance_changed", state=state, reason=self.instance.reason, error=self.instance.error)
        await self._renew()
        emitted = self._bus.emit(
            subjects.INSTANCE_CHANGED, self.instance, instance=self.instance.instance, state=state
        )
        self._telling.add(task := self._tasks.spawn(emitted, f"event {state}"))
        task.add_done_callback(self._telling.discard)

    async def told(self, timeout_s: float) -> None:
        """Wait until every event is stored; a process that ends now would take them with it."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=timeout_s)

    def set_busy(self, busy: int) -> None:
        """Show how many slots are at work, soon."""
        rested = busy < self.instance.busy
        used_at = time.time() if rested else self.instance.used_at
        self.instance = msgspec.structs.replace(self.instance, busy=busy, used_at=used_at)
        self._dirty.set()

    def set_reserved(self, reserved: tuple[Reserved, ...]) -> None:
        """Show what is taken of each device, soon."""
        if reserved != self.instance.reserved:
            self.instance = msgspec.structs.replace(self.instance, reserved=reserved)
            self._dirty.set()

    def set_progress(self, progress: float) -> None:
        """Show how much is loaded, soon."""
        if self.instance.state in COMING and progress != self.instance.progress:
            self.instance = msgspec.structs.replace(self.instance, progress=progress)
            self._dirty.set()

    def set_waiting(self, waiting: int) -> None:
        """Show how many requests wait, soon."""
        if waiting != self.instance.waiting:
            self.instance = msgspec.structs.replace(self.instance, waiting=waiting)
            self._dirty.set()

    async def keep_renewed(self) -> None:
        """Renew until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), RENEW_S)
            self._dirty.clear()
            await self._renew()
            await asyncio.sleep(BUSY_S)

    async def _renew(self) -> None:
        # A failure is worth reading until somebody tries again: it does not expire.
        lasting = self.instance.state is InstanceState.FAILED
        try:
            await self._store.put(self.instance.instance, self.instance, ttl_s=None if lasting else TTL_S)
        except BrokerUnavailable as error:
            log.warning("record_not_written", error=error.message)
        else:
            self.last_renewed = time.monotonic()
