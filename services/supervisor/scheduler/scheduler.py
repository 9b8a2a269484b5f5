"""The scheduler: takes a snapshot, makes a plan and has the nodes carry it out. Events only wake it."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import nats.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.base import model_key, model_name, new_id
from schemas.errors import Conflict, DeadlineExceeded, NotFound, ServiceUnavailable, YardError
from schemas.instances import LIVE, SERVING, Instance, InstanceState, StartInstance, StopInstance
from schemas.placement import PlanReply
from services.supervisor.fetching.fetcher import ModelFetcher
from services.supervisor.planning.explain import explain
from services.supervisor.planning.plan import make_plan
from services.supervisor.planning.world import PlacementPlan, PlannedStart, PlannedStop, SwapLimits
from services.supervisor.scheduler.demand import DemandTracker, StoredDemand, WaitingModels
from services.supervisor.scheduler.node_client import NodeClient
from services.supervisor.scheduler.snapshot import WorldSnapshot, WorldSnapshots, YardState

log = logs.get(__name__)

MAX_PAUSE_S = 2.0
"""A cycle starts at least this often: a lost event must not leave a request waiting."""
_MIN_PAUSE_S = 0.02
"""Between two cycles, so that a burst of requests costs one."""
_VISIBLE_S = 5.0
"""How long the effect of an order may take to show in the instances."""


class Scheduler:
    """Decides while its supervisor holds the lease."""

    def __init__(
        self,
        bus: Bus,
        state: YardState,
        nodes: NodeClient,
        fetching: ModelFetcher,
        stored: StoredDemand,
        limits: SwapLimits,
    ) -> None:
        self.reasons: dict[str, str] = {}
        """Why models wait."""
        self.demand = DemandTracker()
        self._bus = bus
        self._state = state
        self._nodes = nodes
        self._fetching = fetching
        self._stored = stored
        self._snapshots = WorldSnapshots(bus, state, nodes, fetching, limits)
        self._waiting = WaitingModels(bus)
        self._epoch = 0
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        state.models.listen(self._on_change)
        state.instances.listen(self._on_change)
        state.nodes.listen(self._on_change)
        state.groups.listen(self._on_change)
        fetching.listen(on_update=self._wake.set, on_end=self._on_fetch_end)

    def _on_change(self, _key: str, _value: object) -> None:
        self._wake.set()
        self._progress.set()

    def _on_fetch_end(self) -> None:
        self._nodes.invalidate()
        self._wake.set()

    async def listen(self) -> None:
        """Wake for every request whose model has no ready instance."""
        await self._bus.nc.subscribe(subjects.REQUEST_QUEUED.wildcard, cb=self._on_queued)

    async def _on_queued(self, msg: Msg) -> None:
        # Every request of every gateway passes here: no more is read than the subject.
        model = model_name(subjects.REQUEST_QUEUED.token(msg.subject, "model"))
        instances = self._state.instances.values.values()
        if not any(
            instance.model == model and instance.state is InstanceState.READY for instance in instances
        ):
            self._wake.set()

    async def request_start(self, model: str) -> None:
        """Once this returns the model will be started, whichever supervisor holds the lease."""
        self.demand.request_start(model, time.time())
        await self._stored.write(self.demand)
        self._wake.set()

    async def stop(self, model: str) -> tuple[str, ...]:
        """Drain and stop every instance; their ids. The model stays stopped until it is requested."""
        self.demand.request_stop(model, time.time())
        await self._stored.write(self.demand)
        live = self._state.live(model)
        await asyncio.gather(*map(self._request_stop, live))
        return tuple(instance.instance for instance in live)

    async def _request_stop(self, instance: Instance) -> None:
        """A node that does not respond does not keep the others from stopping."""
        order = StopInstance(instance=instance.instance)
        try:
            await self._nodes.order(subjects.NODE_STOP, instance.node, order)
        except YardError as error:
            log.warning("stop_failed", instance=instance.instance, error=error.message)

    async def preview(self, model: str) -> PlanReply:
        """What a start of `model` would lead to now; nothing is changed by that."""
        world = (await self._snapshots.preview(self.demand, model)).world
        return explain(model, world, make_plan(world))

    def serving(self, model: str) -> list[Instance]:
        return self._state.serving(model)

    def failure_since(self, model: str, since: float) -> str | None:
        """Why the model was refused or failed after `since` (unix seconds); None if neither."""
        own = (instance for instance in self._state.instances.values.values() if instance.model == model)
        errors = (instance.error for instance in own if instance.error and instance.changed_at >= since)
        return next(errors, None) or self._waiting.refusal_since(model, since)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change of the instances or a refusal that fulfils `condition`."""
        while not condition():
            self._progress.clear()
            await self._progress.wait()

    async def run(self, epoch: int) -> None:
        self._epoch = epoch
        self.demand = self._stored.load()
        while True:
            self._wake.clear()
            next_at = None
            try:
                next_at = await self._run_cycle()
            except (TimeoutError, nats.errors.Error, YardError) as error:
                log.warning("scheduler_cycle_failed", error=str(error))
            except Exception:
                # One model or answer must not stop the decisions for all others.
                log.exception("scheduler_cycle_failed")
            await asyncio.sleep(_MIN_PAUSE_S)
            pause_s = MAX_PAUSE_S if next_at is None else max(next_at - time.time(), _MIN_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(pause_s, MAX_PAUSE_S))

    async def _run_cycle(self) -> float | None:
        """One snapshot, one plan, and its orders; when the next is due without any event."""
        snapshot = await self._snapshots.take(self.demand)
        plan = make_plan(snapshot.world)
        self.demand.extend(snapshot.fetches.running, snapshot.world.now)
        self.reasons = plan.reasons
        self._refuse(plan)
        demand = snapshot.world.demand.items()
        since = {model: state.since for model, state in demand if state.since is not None}
        await self._waiting.publish(plan.reasons, since)
        await self._carry_out(plan, snapshot)
        instances = self._state.instances.values.values()
        live = {instance.model for instance in instances if instance.state in LIVE}
        self.demand.complete(live - plan.reasons.keys())
        await self._stored.write(self.demand)
        return plan.next_evaluation_at

    def _refuse(self, plan: PlacementPlan) -> None:
        """Requests of models that cannot run here fail at once: waiting would not help."""
        models = self._state.models
        revisions = {spec.name: models.revisions[key] for key, spec in models.values.items()}
        self._waiting.expire(revisions, [start.model for start in plan.starts])
        if self._nodes.unresponsive():
            return
        for model in plan.unsatisfiable & revisions.keys():
            if model in self.demand.start_requested or not self._waiting.is_refused(model):
                self._waiting.refuse(model, plan.reasons[model], revisions[model])
        self.demand.complete(plan.unsatisfiable)
        self._progress.set()

    async def _carry_out(self, plan: PlacementPlan, snapshot: WorldSnapshot) -> None:
        for stop in plan.stops:
            await self._stop(stop)
        for start in plan.starts:
            await self._start(start)
        for fetch in plan.fetches:
            self._fetching.order(fetch, snapshot.fetches.orders[fetch])

    async def _start(self, start: PlannedStart) -> None:
        """Propose it to the node and wait until the instance shows, so that the next cycle sees it."""
        instance, key = new_id(), model_key(start.model)
        if key not in self._state.models.values:
            # It was deleted while others were started.
            return
        order = StartInstance(
            instance=instance,
            model=start.model,
            revision=self._state.models.revisions[key],
            failures=start.failures,
            option=start.option,
            epoch=self._epoch,
        )
        node = start.option.node
        try:
            await self._nodes.order(subjects.NODE_START, node, order)
        except Conflict as error:
            # The node's measurement of its memory is newer than the snapshot.
            self.reasons[start.model] = error.message
            log.info("start_refused", model=start.model, node=node, reason=error.message)
            return
        except (ServiceUnavailable, DeadlineExceeded) as error:
            self._on_no_response(node, error)
            return
        await asyncio.wait_for(self._state.instances.until(lambda values: instance in values), _VISIBLE_S)

    async def _stop(self, stop: PlannedStop) -> None:
        log.info("instance_evicting", model=stop.model, instance=stop.instance, reason=stop.reason)
        order = StopInstance(instance=stop.instance, reason=stop.reason, epoch=self._epoch)
        try:
            await self._nodes.order(subjects.NODE_STOP, stop.node, order)
        except NotFound:
            log.info("instance_not_found", instance=stop.instance)
        except (ServiceUnavailable, DeadlineExceeded) as error:
            self._on_no_response(stop.node, error)
            return
        stopping = self._state.instances.until(
            lambda values: stop.instance not in values or values[stop.instance].state not in SERVING
        )
        await asyncio.wait_for(stopping, _VISIBLE_S)

    def _on_no_response(self, node: str, error: YardError) -> None:
        """The next cycle does without the node, and starts at once."""
        log.warning("node_unresponsive", node=node, error=error.message)
        self._nodes.mark_unresponsive(node)
        self._wake.set()
