"""The scheduler: builds the world, asks the plan, and has the nodes act. Events wake it, state decides."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.host.settings import Settings
from schemas import buckets, streams, subjects
from schemas.base import model_key, model_name, new_id
from schemas.errors import Conflict, DeadlineExceeded, NotFound, ServiceUnavailable, YardError
from schemas.groups import ModelGroup
from schemas.instances import (
    LIVE,
    SERVING,
    Instance,
    InstanceState,
    Node,
    Reason,
    StartInstance,
    StopInstance,
)
from schemas.models import ModelSpec, fingerprint
from schemas.placing import Option
from services.supervisor.fetching.fetching import Fetching
from services.supervisor.planning.plan import desired, plan
from services.supervisor.planning.world import Rules, StartModel, StopModel, World
from services.supervisor.scheduling.asking import Nodes
from services.supervisor.scheduling.demand import Demands
from services.supervisor.scheduling.memory import Memory
from services.supervisor.scheduling.notices import Notices

log = logs.get(__name__)

LOOK_EVERY_S = 2.0
"""Even without any event: a lost one must not leave a request waiting."""
_PAUSE_S = 0.02
"""Between two looks, so that a burst of requests costs one."""
_SHOWS_S = 5.0
ORDER_S = 3.0
"""A node takes an order at once, or is not there: others must not wait for that."""
REFUSED_S = 10.0
"""A model for which no device is large enough is refused for so long without another look."""


class Scheduler:
    """Decides while its supervisor holds the lease."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        models: BucketCache[ModelSpec],
        instances: BucketCache[Instance],
        nodes: BucketCache[Node],
        asking: Nodes,
        groups: BucketCache[ModelGroup],
        memory: Memory,
        fetching: Fetching,
    ) -> None:
        self.reasons: dict[str, str] = {}
        """For every model that waits: why."""
        self.demands = Demands()
        self._bus = bus
        self._node = settings.node
        self._store = BucketStore(bus, buckets.INSTANCES)
        self._models = models
        self._instances = instances
        self._groups = groups
        self._memory = memory
        self._fetching = fetching
        self._nodes = asking
        self._rules = Rules(max_wait_s=settings.swap_max_wait_s, min_dwell_s=settings.swap_min_dwell_s)
        self._epoch = 0
        self._notices = Notices(bus)
        self._wake = asyncio.Event()
        for mirror in (instances, models, nodes, groups):
            mirror.listen(lambda _key, _value: self._wake.set())
        fetching.listen(on_news=self._wake.set, on_end=self._on_files)

    def _on_files(self) -> None:
        """Files have come somewhere, or will not."""
        self._nodes.forget()
        self._wake.set()

    async def listen(self) -> None:
        """Hear of every request."""
        await self._bus.nc.subscribe(subjects.REQUEST_QUEUED.wildcard, cb=self._on_queued)

    async def _on_queued(self, msg: Msg) -> None:
        # Every request of every gateway passes here: no more is read than the subject.
        model = model_name(msg.subject.split(".")[3])
        ready = InstanceState.READY
        if not any(one.model == model and one.state is ready for one in self._instances.values.values()):
            self._wake.set()

    async def wish(self, model: str) -> None:
        """Somebody asked for `model` to be started: from here on it will be, whoever decides."""
        self.demands.wish(model, time.time())
        await self._memory.keep(self.demands)
        self._wake.set()

    async def stop(self, model: str) -> tuple[str, ...]:
        """Drain and stop every instance; their ids. It stays down until somebody asks for it."""
        self.demands.hold(model, time.time())
        await self._memory.keep(self.demands)
        own = [one for one in self._instances.values.values() if one.model == model and one.state in LIVE]
        await asyncio.gather(*(self._ask_to_stop(one) for one in own))
        return tuple(one.instance for one in own)

    async def _ask_to_stop(self, instance: Instance) -> None:
        """A node that does not answer keeps the others from nothing."""
        order = StopInstance(instance=instance.instance)
        try:
            await self._bus.call(subjects.NODE_STOP, order, node=instance.node, timeout_s=ORDER_S)
        except YardError as error:
            log.warning("stop_not_taken", instance=instance.instance, error=error.message)

    def serving(self, model: str) -> list[Instance]:
        """Those that serve or will; not those on their way down."""
        return [one for one in self._instances.values.values() if one.model == model and one.state in SERVING]

    async def run(self, epoch: int) -> None:
        """Decide until cancelled."""
        self._epoch = epoch
        self._memory.recall(self.demands)
        while True:
            self._wake.clear()
            try:
                look_again_at = await self._look()
            except (TimeoutError, nats.errors.Error, nats.js.errors.Error, YardError) as error:
                log.warning("look_failed", error=str(error))
                look_again_at = None
            except Exception:
                # One strange model or answer must not end the deciding for all others.
                log.exception("look_failed")
                look_again_at = None
            await asyncio.sleep(_PAUSE_S)
            left_s = LOOK_EVERY_S if look_again_at is None else max(look_again_at - time.time(), _PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(left_s, LOOK_EVERY_S))

    async def _look(self) -> float | None:
        world = await self.world()
        made = plan(world)
        self.reasons = made.reasons
        since = {name: demand.since for name, demand in world.demand.items() if demand.since is not None}
        await self._notices.tell(made.reasons, since)
        for stop in made.stops:
            await self._stop(stop)
        for start in made.starts:
            await self._start(start)
        for fetch in made.fetches:
            self._fetching.order(fetch)
        for model in () if self._nodes.silent() else made.hopeless:
            by = Reason.REQUESTED if model in world.unfetched else Reason.OOM
            await self._refuse(model, made.reasons[model], by)
        live = {one.model for one in self._instances.values.values() if one.state in LIVE}
        self.demands.fulfilled(live - made.reasons.keys())
        await self._memory.keep(self.demands)
        return made.look_again_at

    async def world(self, *, also: str | None = None) -> World:
        """The world as it is now; with `also` as if somebody had asked for that model."""
        now, instances = time.time(), tuple(self._instances.values.values())
        specs = {spec.name: spec for spec in self._models.values.values()}
        served = {one.model for one in instances if one.state is InstanceState.READY}
        living = {one.model for one in instances if one.state in LIVE}
        waiting = unbegun(await self._waiting(), instances)
        wanted = self.demands.wanted | ({also} if also else set())
        world = World(
            now=now,
            models=specs,
            instances=instances,
            demand=self.demands.look(waiting, served, living, now),
            wanted=wanted & specs.keys(),
            held=self.demands.held - wanted,
            nodes=self._nodes.rooms(),
            replaced=replaced(instances, specs),
            groups=tuple(self._groups.values.values()),
            rules=self._rules,
        )
        needing = [name for name in specs if desired(world, name) > len(self.serving(name))]
        options, problems = await self._nodes.options(needing, instances)
        options = {name: elsewhere_first(name, ways, instances) for name, ways in options.items()}
        wished_at = {name: wish.at for name, wish in self.demands.wishes.items() if wish.running}
        # A node that is silent for a moment may have the files.
        looked_for = () if self._nodes.silent() else needing
        asked = (specs[name] for name in looked_for)
        fetches = await self._fetching.look(asked, wished_at, patient_for=also)
        self.demands.renew(fetches.under_way, now)
        return msgspec.structs.replace(
            world,
            options=options,
            problems=problems,
            fetches=fetches.ways,
            fetching=fetches.under_way,
            unfetched=fetches.failed,
        )

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
        instance, key = new_id(), model_key(start.model)
        if key not in self._models.values:
            # It left the registry while others were started.
            return
        proposal = StartInstance(
            instance=instance,
            model=start.model,
            revision=self._models.revisions[key],
            failures=start.failures,
            option=start.option,
            epoch=self._epoch,
        )
        node = start.option.node
        try:
            await self._bus.call(subjects.NODE_START, proposal, node=node, timeout_s=ORDER_S)
        except Conflict as error:
            # The node knows better what fits; the next look sees what it saw.
            self.reasons[start.model] = error.message
            log.info("node_refuses", model=start.model, node=node, reason=error.message)
            return
        except (ServiceUnavailable, DeadlineExceeded) as error:
            self._on_silence(node, error)
            return
        await asyncio.wait_for(self._instances.until(lambda values: instance in values), _SHOWS_S)

    def _on_silence(self, node: str, error: YardError) -> None:
        """The next look does without it, and comes at once."""
        log.warning("node_is_silent", node=node, error=error.message)
        self._nodes.note_silent(node)
        self._wake.set()

    async def _refuse(self, model: str, reason: str, by: Reason) -> None:
        """Whoever waits is told now: waiting would not help."""
        key = model_key(model)
        spec, revision = self._models.values.get(key), self._models.revisions.get(key)
        if spec is None or revision is None:
            return
        log.warning("model_refused", model=model, reason=reason)
        record = Instance(
            instance=new_id(),
            model=model,
            node=self._node,
            engine=spec.engine,
            revision=revision,
            state=InstanceState.FAILED,
            reason=by,
            changed_at=time.time(),
            error=f"It cannot run here: {reason}.",
            retry_at=time.time() + REFUSED_S,
        )
        await self._store.put(record.instance, record, ttl_s=int(REFUSED_S))
        self.demands.fulfilled({model})

    async def _stop(self, stop: StopModel) -> None:
        log.info("instance_has_to_go", model=stop.model, instance=stop.instance, reason=stop.reason)
        order = StopInstance(instance=stop.instance, reason=stop.reason, epoch=self._epoch)
        try:
            await self._bus.call(subjects.NODE_STOP, order, node=stop.node, timeout_s=ORDER_S)
        except NotFound:
            log.info("instance_is_gone", instance=stop.instance)
        except (ServiceUnavailable, DeadlineExceeded) as error:
            self._on_silence(stop.node, error)
            return
        await asyncio.wait_for(
            self._instances.until(lambda values: not _stays(values, stop.instance)), _SHOWS_S
        )


def _stays(values: dict[str, Instance], instance: str) -> bool:
    return instance in values and values[instance].state in SERVING


def elsewhere_first(
    model: str, ways: tuple[Option, ...], instances: tuple[Instance, ...]
) -> tuple[Option, ...]:
    """A model that failed on one node is tried on the others before it is tried there again."""
    failed = {one.node for one in instances if one.model == model and one.state is InstanceState.FAILED}
    return tuple(sorted(ways, key=lambda way: way.node in failed))


def unbegun(waiting: Mapping[str, int], instances: Iterable[Instance]) -> dict[str, int]:
    """Requests without those that an instance on its way down still answers: nobody has to start for them."""
    ending = Counter[str]()
    for one in instances:
        if one.state in LIVE and one.state not in SERVING:
            ending[one.model] += one.busy
    return {model: max(count - ending[model], 0) for model, count in waiting.items()}


def replaced(instances: tuple[Instance, ...], specs: dict[str, ModelSpec]) -> frozenset[str]:
    """Instances that were started with what their model no longer is."""
    now = {name: fingerprint(spec) for name, spec in specs.items()}
    return frozenset(
        one.instance
        for one in instances
        if one.fingerprint and one.model in now and one.fingerprint != now[one.model]
    )
