"""The scheduler's leader: the lease, and the `model` commands that its holder answers."""

import asyncio
import contextlib
import time

import nats.errors

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.errors import BrokerUnavailable, Conflict, StartFailed
from schemas.leases import SCHEDULER, Lease
from schemas.models import ModelRef, ModelStarting, ModelStopping
from schemas.placement import PlanQuery, PlanReply
from services.supervisor.registry.registry import ModelRegistry
from services.supervisor.scheduler.scheduler import Scheduler

log = logs.get(__name__)

TTL_S = 6
RENEW_S = 2.0
_RETRY_S = 1.0
_RELEASED = ""
_START_REPLY_S = 4.0
"""Within this a start is answered with the instance, or with what the model waits for."""


class SchedulerLease:
    """Held as long as it is renewed. Its epoch grows with every change of holder."""

    def __init__(self, bus: Bus, holder: str) -> None:
        self._store = BucketStore(bus, buckets.LEASES)
        self._holder = holder
        self._revision = 0
        self._renewed_at = 0.0
        self._epoch = 0

    async def acquire(self) -> int:
        """Wait until this node holds the lease; its epoch."""
        while True:
            with contextlib.suppress(BrokerUnavailable, Conflict):
                # The marker that an expired lease leaves behind has a revision too.
                lease, revision = await self._store.head(SCHEDULER)
                # A lease of this node is free: the process that held it has ended.
                if lease is None or lease.holder in (self._holder, _RELEASED):
                    self._epoch = await self._put(revision)
                    # Every node sees the epoch before the first order.
                    await self._put(self._epoch)
                    return self._epoch
            await asyncio.sleep(_RETRY_S)

    async def wait_until_lost(self) -> None:
        """Renew it; return when it is lost, or may be."""
        while time.monotonic() - self._renewed_at < TTL_S - RENEW_S:
            await asyncio.sleep(RENEW_S)
            try:
                await self._put(self._revision)
            except Conflict:
                break
            except BrokerUnavailable:
                continue
        log.warning("lease_lost", key=SCHEDULER)

    async def release(self) -> None:
        """Let another supervisor acquire it at once."""
        with contextlib.suppress(BrokerUnavailable, Conflict):
            await self._store.put(SCHEDULER, Lease(holder=_RELEASED), last=self._revision, ttl_s=1)

    async def _put(self, last: int) -> int:
        sent_at = time.monotonic()
        lease = Lease(holder=self._holder, epoch=self._epoch)
        self._revision = await self._store.put(SCHEDULER, lease, last=last, ttl_s=TTL_S)
        self._renewed_at = sent_at
        return self._revision


class SchedulerCommands:
    def __init__(self, registry: ModelRegistry, scheduler: Scheduler) -> None:
        self._registry = registry
        self._scheduler = scheduler

    async def start(self, ref: ModelRef) -> ModelStarting:
        """Accept a start: with its instance, or with what the model waits for if there is none yet.

        StartFailed if it fails at once, or cannot run here at all.
        """
        model = self._registry.find(ref.model).name
        if not self._scheduler.serving(model) and (reason := await self._request_start(model)) is not None:
            return ModelStarting(model=model, state="waiting", reason=reason)
        instance = self._scheduler.serving(model)[0]
        return ModelStarting(model=model, instance=instance.instance, state=instance.state)

    async def _request_start(self, model: str) -> str | None:
        """What it waits for, or None as soon as it has an instance."""
        requested_at = time.time()
        await self._scheduler.request_start(model)
        try:
            async with asyncio.timeout(_START_REPLY_S):
                await self._scheduler.wait_until(
                    lambda: bool(
                        self._scheduler.serving(model) or self._scheduler.failure_since(model, requested_at)
                    )
                )
        except TimeoutError:
            return self._scheduler.reasons.get(model, "no node has taken the start yet")
        if not self._scheduler.serving(model):
            error = self._scheduler.failure_since(model, requested_at)
            raise StartFailed(error or f"{model} failed at once.")
        return None

    async def stop(self, ref: ModelRef) -> ModelStopping:
        """Drain and stop every instance; the model stays stopped until it is requested."""
        model = self._registry.find(ref.model).name
        return ModelStopping(model=model, instances=await self._scheduler.stop(model))

    async def plan(self, query: PlanQuery) -> PlanReply:
        """What a start of this model would lead to now."""
        return await self._scheduler.preview(self._registry.find(query.model).name)


async def lead(bus: Bus, lease: SchedulerLease, scheduler: Scheduler, handlers: SchedulerCommands) -> None:
    """Decide, and answer the scheduler's commands, while this node holds the lease."""
    while True:
        epoch = await lease.acquire()
        try:
            await _lead_once(bus, lease, epoch, scheduler, handlers)
        except (TimeoutError, nats.errors.Error) as error:
            log.warning("lease_not_acquired", error=str(error))


async def _lead_once(
    bus: Bus, lease: SchedulerLease, epoch: int, scheduler: Scheduler, handlers: SchedulerCommands
) -> None:
    async with Tasks() as tasks:
        commands = await Commands.start(bus, tasks, "The scheduler.")
        running = tasks.spawn(scheduler.run(epoch), "scheduler")
        try:
            await commands.add(subjects.MODEL_START, handlers.start)
            await commands.add(subjects.MODEL_STOP, handlers.stop)
            await commands.add(subjects.MODEL_PLAN, handlers.plan)
            await lease.wait_until_lost()
        finally:
            running.cancel()
            await asyncio.shield(_stop_answering(commands))


async def _stop_answering(commands: Commands) -> None:
    # Where the lease was lost with the broker, there is no confirmation.
    with contextlib.suppress(TimeoutError, nats.errors.Error):
        await commands.stop()
