"""The scheduler: builds the world, asks the plan, and has the nodes act. Events wake it, state decides."""

import asyncio
import contextlib
import time

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from modelyard import logging
from modelyard.bus import Bus
from modelyard.settings import Settings
from modelyard.state import Mirror
from schemas import streams, subjects
from schemas.errors import Conflict, NotFound, YardError
from schemas.grammar import model_name, new_id
from schemas.instances import LIVE, SERVING, Instance, InstanceState, Node, StartInstance, StopInstance
from schemas.models import ModelSpec
from schemas.restart import fingerprint
from services.supervisor.planning.plan import desired, plan
from services.supervisor.planning.world import Plan, Rules, StartModel, StopModel, World
from services.supervisor.scheduling.asking import Nodes
from services.supervisor.scheduling.demand import Demands

log = logging.get(__name__)

LOOK_EVERY_S = 2.0
"""Even without any event: a lost one must not leave a request waiting."""
_PAUSE_S = 0.02
"""Between two looks, so that a burst of requests costs one."""
_SHOWS_S = 5.0


class Scheduler:
    """Decides while its supervisor holds the lease."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        models: Mirror[ModelSpec],
        instances: Mirror[Instance],
        nodes: Mirror[Node],
    ) -> None:
        self.reasons: dict[str, str] = {}
        """For every model that waits: why."""
        self.demands = Demands()
        self._bus = bus
        self._models = models
        self._instances = instances
        self._nodes = Nodes(bus, nodes, models)
        self._rules = Rules(max_wait_s=settings.swap_max_wait_s, min_dwell_s=settings.swap_min_dwell_s)
        self._epoch = 0
        self._wake = asyncio.Event()
        for mirror in (instances, models, nodes):
            mirror.listen(lambda _key, _value: self._wake.set())

    async def listen(self) -> None:
        """Hear of every request."""
        await self._bus.nc.subscribe(subjects.REQUEST_QUEUED.wildcard, cb=self._on_queued)

    async def _on_queued(self, msg: Msg) -> None:
        # Every request of every gateway passes here: no more is read than the subject.
        model = model_name(msg.subject.split(".")[3])
        ready = InstanceState.READY
        if not any(one.model == model and one.state is ready for one in self._instances.values.values()):
            self._wake.set()

    def wish(self, model: str) -> None:
        """Somebody asked for `model` to be started."""
        self.demands.wish(model, time.time())
        self._wake.set()

    async def stop(self, model: str) -> tuple[str, ...]:
        """Drain and stop every instance; their ids. It stays down until somebody asks for it."""
        self.demands.hold(model)
        own = [one for one in self._instances.values.values() if one.model == model and one.state in LIVE]
        for one in own:
            await self._bus.call(subjects.NODE_STOP, StopInstance(instance=one.instance), node=one.node)
        return tuple(one.instance for one in own)

    def serving(self, model: str) -> list[Instance]:
        """Those that serve or will; not those on their way down."""
        return [one for one in self._instances.values.values() if one.model == model and one.state in SERVING]

    async def run(self, epoch: int) -> None:
        """Decide until cancelled."""
        self._epoch = epoch
        while True:
            self._wake.clear()
            try:
                look_again_at = await self._look()
            except (TimeoutError, nats.errors.Error, nats.js.errors.Error, YardError) as error:
                log.warning("look_failed", error=str(error))
                look_again_at = None
            await asyncio.sleep(_PAUSE_S)
            left_s = LOOK_EVERY_S if look_again_at is None else max(look_again_at - time.time(), _PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(left_s, LOOK_EVERY_S))

    async def _look(self) -> float | None:
        world = await self.world()
        made = plan(world)
        self._tell(made)
        for stop in made.stops:
            await self._stop(stop)
        for start in made.starts:
            await self._start(start)
        live = {one.model for one in self._instances.values.values() if one.state in LIVE}
        self.demands.fulfilled(live - made.reasons.keys())
        return made.look_again_at

    def _tell(self, made: Plan) -> None:
        for model, reason in made.reasons.items():
            if self.reasons.get(model, "").split(";")[0] != reason.split(";")[0]:
                log.info("model_waits", model=model, reason=reason)
        self.reasons = made.reasons

    async def world(self, *, also: str | None = None) -> World:
        """The world as it is now; with `also` as if somebody had asked for that model."""
        now, instances = time.time(), tuple(self._instances.values.values())
        specs = {spec.name: spec for spec in self._models.values.values()}
        served = {one.model for one in instances if one.state is InstanceState.READY}
        wanted = self.demands.wanted | ({also} if also else set())
        world = World(
            now=now,
            models=specs,
            instances=instances,
            demand=self.demands.look(await self._waiting(), served, now),
            wanted=wanted & specs.keys(),
            held=self.demands.held - wanted,
            nodes=self._nodes.rooms(),
            replaced=replaced(instances, specs),
            rules=self._rules,
        )
        needing = [name for name in specs if desired(world, name) > len(self.serving(name))]
        options, problems = await self._nodes.options(needing, instances)
        return msgspec.structs.replace(world, options=options, problems=problems)

    async def _waiting(self) -> dict[str, int]:
        """From the stream itself, which cannot be wrong."""
        info = await self._bus.js.stream_info(streams.INFER.name, subjects_filter=subjects.INFER.wildcard)
        waiting: dict[str, int] = {}
        for subject, count in (info.state.subjects or {}).items():
            name = model_name(subjects.INFER.parse(subject)["model"])
            waiting[name] = waiting.get(name, 0) + count
        return waiting

    async def _start(self, start: StartModel) -> None:
        """Propose it to the node, and wait until the instance shows: no second look may start it twice."""
        instance = new_id()
        key = next(key for key, spec in self._models.values.items() if spec.name == start.model)
        proposal = StartInstance(
            instance=instance,
            model=start.model,
            revision=self._models.revisions[key],
            failures=start.failures,
            option=start.option,
            epoch=self._epoch,
        )
        try:
            await self._bus.call(subjects.NODE_START, proposal, node=start.option.node)
        except Conflict as error:
            # The node knows better what fits; the next look sees what it saw.
            self.reasons[start.model] = error.message
            log.info("node_refuses", model=start.model, node=start.option.node, reason=error.message)
            return
        await asyncio.wait_for(self._instances.until(lambda values: instance in values), _SHOWS_S)

    async def _stop(self, stop: StopModel) -> None:
        log.info("instance_has_to_go", model=stop.model, instance=stop.instance, reason=stop.reason)
        order = StopInstance(instance=stop.instance, reason=stop.reason, epoch=self._epoch)
        with contextlib.suppress(NotFound):
            await self._bus.call(subjects.NODE_STOP, order, node=stop.node)
        await asyncio.wait_for(
            self._instances.until(lambda values: not _stays(values, stop.instance)), _SHOWS_S
        )


def _stays(values: dict[str, Instance], instance: str) -> bool:
    return instance in values and values[instance].state in SERVING


def replaced(instances: tuple[Instance, ...], specs: dict[str, ModelSpec]) -> frozenset[str]:
    """Instances that were started with what their model no longer is."""
    now = {name: fingerprint(spec) for name, spec in specs.items()}
    return frozenset(
        one.instance
        for one in instances
        if one.fingerprint and one.model in now and one.fingerprint != now[one.model]
    )
