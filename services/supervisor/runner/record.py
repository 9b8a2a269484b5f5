"""The instance record: its launch, legal state transitions, each an event, and a TTL that is renewed."""

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
from schemas.base import Record
from schemas.errors import BrokerUnavailable
from schemas.instances import COMING, NEXT_STATES, Instance, InstanceState, Placement, Reason, Reserved
from schemas.models import ModelSpec, fingerprint

log = logs.get(__name__)

DRAIN_S = 30.0
"""How long requests in flight may take after SIGTERM; a second SIGTERM ends them."""
STOP_S = 5.0
"""How long an engine may take to exit after SIGTERM."""
TTL_S = 6
"""Without a renewal the record expires, and the runner counts as dead."""
RENEW_S = 2.0
MIN_RENEW_S = 0.5
"""The delay between a change of load or progress and the next one that is written."""


class Launch(Record):
    """Run this revision of this model as this instance."""

    instance: str
    spec: ModelSpec
    revision: int
    nats_url: str
    failures: int = 0
    """Earlier failures of this model in a row."""
    reserved: tuple[Reserved, ...] = ()
    """The memory reserved on each device."""
    placement: Placement = Placement()
    """The scheduler's decision."""


def first_record(launch: Launch, node: str) -> Instance:
    now = time.time()
    return Instance(
        instance=launch.instance,
        model=launch.spec.name,
        node=node,
        engine=launch.spec.engine,
        revision=launch.revision,
        fingerprint=fingerprint(launch.spec),
        state=InstanceState.STARTING,
        reason=Reason.REQUESTED,
        changed_at=now,
        started_at=now,
        profile=launch.placement.profile,
        reserved=launch.reserved,
        failures=launch.failures,
    )


class InstanceRecord:
    def __init__(self, bus: Bus, tasks: Tasks, instance: Instance) -> None:
        self.instance = instance
        self.renewed_at = time.monotonic()
        self._bus = bus
        self._tasks = tasks
        self._store = BucketStore(bus, buckets.INSTANCES)
        self._dirty = asyncio.Event()
        self._events: set[asyncio.Task[None]] = set()

    async def transition(self, state: InstanceState, reason: Reason | None = None, **changes: Any) -> None:
        """Write `state` and further `changes`, and publish the event."""
        if state not in NEXT_STATES[self.instance.state]:
            raise ValueError(f"{self.instance.state} cannot become {state}")
        changes |= {"state": state, "reason": reason or self.instance.reason, "changed_at": time.time()}
        self.instance = msgspec.structs.replace(self.instance, **changes)
        log.info("instance_changed", state=state, reason=self.instance.reason, error=self.instance.error)
        await self._write()
        event = self._bus.emit(
            subjects.INSTANCE_CHANGED, self.instance, instance=self.instance.instance, state=state
        )
        self._events.add(task := self._tasks.spawn(event, f"event {state}"))
        task.add_done_callback(self._events.discard)

    async def wait_for_events(self, timeout_s: float) -> None:
        """Wait until every event is stored; the end of the process would lose the others."""
        if self._events:
            await asyncio.wait(self._events, timeout=timeout_s)

    def set_busy(self, busy: int) -> None:
        """Busy slots; written with the next renewal, as all the values below."""
        used_at = time.time() if busy < self.instance.busy else self.instance.used_at
        self._change(busy=busy, used_at=used_at)

    def set_reserved(self, reserved: tuple[Reserved, ...]) -> None:
        if reserved != self.instance.reserved:
            self._change(reserved=reserved)

    def set_progress(self, progress: float) -> None:
        if self.instance.state in COMING and progress != self.instance.progress:
            self._change(progress=progress)

    def set_waiting(self, waiting: int) -> None:
        if waiting != self.instance.waiting:
            self._change(waiting=waiting)

    def _change(self, **changes: Any) -> None:
        self.instance = msgspec.structs.replace(self.instance, **changes)
        self._dirty.set()

    async def renew(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), RENEW_S)
            self._dirty.clear()
            await self._write()
            await asyncio.sleep(MIN_RENEW_S)

    async def _write(self) -> None:
        # The record of a failure stays until the next start.
        ttl_s = None if self.instance.state is InstanceState.FAILED else TTL_S
        try:
            await self._store.put(self.instance.instance, self.instance, ttl_s=ttl_s)
        except BrokerUnavailable as error:
            log.warning("record_not_written", error=error.message)
        else:
            self.renewed_at = time.monotonic()
