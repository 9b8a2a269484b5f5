"""Random worlds, step by step: no memory is reserved twice, and every waiting model has a reason."""

import random
from collections import Counter

import msgspec
import pytest

from schemas.instances import LIVE, Instance, InstanceState, Reason, Reserved
from schemas.models import ModelSpec
from schemas.placement import MemoryNeed, Option
from schemas.profiles import Replicas
from services.supervisor.planning.evictions import is_in_use
from services.supervisor.planning.plan import make_plan
from services.supervisor.planning.world import (
    Demand,
    FetchOption,
    NodeCapacity,
    PlacementPlan,
    PlannedStart,
    PlannedStop,
    World,
)

S = InstanceState
STEPS = 2500
MODELS = "abcdef"
NODES = {"n": {"gpu0": 16, "cpu": 24}, "m": {"gpu0": 8, "gpu1": 8, "cpu": 12}}


class SimulatedYard:
    """A yard without processes: starts become ready or fail, draining instances stop some time later."""

    def __init__(self, rng: random.Random, *, cordons: bool = True) -> None:
        self.rng = rng
        self.cordons = cordons
        self.now = 1000.0
        self.instances: dict[str, Instance] = {}
        self.queue: Counter[str] = Counter()
        self.since: dict[str, float] = {}
        self.specs = {name: self._spec(name) for name in MODELS}
        self.options = {name: self._options() for name in MODELS}
        self.files = {name: set(self.rng.sample(list(NODES), self.rng.choice((1, 2)))) for name in MODELS}
        """The nodes that have a model's files; the others may fetch them."""
        self.fetching: dict[str, str] = {}
        self.capacities = {node: NodeCapacity(memory_bytes=dict(devices)) for node, devices in NODES.items()}
        self.count = 0

    def _spec(self, name: str) -> ModelSpec:
        return ModelSpec(
            name=name,
            path="m.gguf",
            pinned=self.rng.random() < 0.15,
            ttl_s=self.rng.choice((None, 30.0)),
            priority=self.rng.choice((0, 0, 1)),
            replicas=Replicas(max=self.rng.choice((1, 1, 3))),
        )

    def _options(self) -> tuple[Option, ...]:
        options = []
        for profile in ("large", "small"):
            size = self.rng.randint(2, 20) if profile == "large" else self.rng.randint(1, 8)
            for node, devices in NODES.items():
                device = self.rng.choice(list(devices))
                options.append(
                    Option(node=node, profile=profile, needs=(MemoryNeed(device=device, memory_bytes=size),))
                )
        return tuple(options)

    def world(self) -> World:
        ready = {one.model for one in self.instances.values() if one.state is S.READY}
        for name in MODELS:
            if not self.queue[name] or name in ready:
                self.since.pop(name, None)
            else:
                self.since.setdefault(name, self.now)
        return World(
            now=self.now,
            models=self.specs,
            instances=tuple(self.instances.values()),
            demand={
                name: Demand(queued=count, since=self.since.get(name)) for name, count in self.queue.items()
            },
            nodes=self.capacities,
            options={name: self._options_of(name, has_files=True) for name in MODELS},
            fetch_options={
                name: tuple(
                    FetchOption(option=option, source="a node")
                    for option in self._options_of(name, has_files=False)
                )
                for name in MODELS
            },
            fetches_running={
                name: f"its files are being copied to {node}" for name, node in self.fetching.items()
            },
        )

    def _options_of(self, name: str, *, has_files: bool) -> tuple[Option, ...]:
        return tuple(
            option for option in self.options[name] if (option.node in self.files[name]) is has_files
        )

    def step(self) -> tuple[World, PlacementPlan]:
        self.now += self.rng.random() * 3
        if self.rng.random() < 0.4:
            self.queue[self.rng.choice(MODELS)] += self.rng.randint(1, 6)
        if self.cordons and self.rng.random() < 0.01:
            node = self.rng.choice(list(self.capacities))
            self.capacities[node] = msgspec.structs.replace(
                self.capacities[node], cordoned=not self.capacities[node].cordoned
            )
        for one in tuple(self.instances.values()):
            self._advance(one)
        world = self.world()
        plan = make_plan(world)
        for stop in plan.stops:
            self._change(self.instances[stop.instance], state=S.DRAINING, reason=stop.reason)
        for start in plan.starts:
            assert start.option.node in self.files[start.model]
            self._add_instance(start)
        if self.rng.random() < 0.05:
            self.files[self.rng.choice(MODELS)] = {self.rng.choice(list(NODES))}
        for name, node in tuple(self.fetching.items()):
            if self.rng.random() < 0.3:
                del self.fetching[name]
                # One in three fails, and may be tried again.
                self.files[name] |= {node} if self.rng.random() < 0.7 else set()
        for fetch in plan.fetches:
            self.fetching[fetch.model] = fetch.node
        return world, plan

    def _advance(self, one: Instance) -> None:
        roll = self.rng.random()
        if one.state is S.STARTING and roll < 0.4:
            failed = roll < 0.05
            self._change(
                one,
                state=S.FAILED if failed else S.READY,
                ready_at=None if failed else self.now,
                retry_at=self.now + 2 if failed else None,
            )
        elif one.state is S.READY:
            self._serve(one, roll)
        elif (one.state is S.DRAINING and roll < 0.5) or (one.state is S.FAILED and roll < 0.2):
            del self.instances[one.instance]

    def _serve(self, one: Instance, roll: float) -> None:
        if roll < 0.01:
            self._change(one, state=S.FAILED, retry_at=self.now + 1, busy=0)
            return
        busy = min(self.queue[one.model], one.slots)
        done = self.rng.randint(0, busy)
        self.queue[one.model] -= done
        self._change(one, busy=busy - done, used_at=self.now if done else one.used_at)

    def _change(self, one: Instance, **changes: object) -> None:
        self.instances[one.instance] = msgspec.structs.replace(one, **changes)

    def _add_instance(self, start: PlannedStart) -> None:
        self.count += 1
        self.instances[str(self.count)] = Instance(
            instance=str(self.count),
            model=start.model,
            node=start.option.node,
            engine="e",
            revision=1,
            state=S.STARTING,
            reason=Reason.REQUESTED,
            changed_at=self.now,
            slots=4,
            load_s=self.rng.random() * 30,
            reserved=tuple(
                Reserved(device=need.device, predicted_bytes=need.memory_bytes) for need in start.option.needs
            ),
        )

    def check_memory(self) -> None:
        held: Counter[tuple[str, str]] = Counter()
        for one in self.instances.values():
            for reserved in one.reserved if one.state in LIVE else ():
                held[one.node, reserved.device] += reserved.predicted_bytes
        for (node, device), size in held.items():
            assert size <= NODES[node][device], f"{node} {device} is over-committed"


def check_stop(stop: PlannedStop, world: World) -> None:
    victim = next(one for one in world.instances if one.instance == stop.instance)
    assert victim.state is S.READY
    assert not world.models[stop.model].pinned or stop.reason is Reason.IDLE
    longest = max((world.now - demand.since for demand in world.demand.values() if demand.since), default=0)
    if is_in_use(victim, world):
        assert stop.reason is Reason.EVICTED
        assert longest >= world.limits.max_wait_s, "a model had waited too long"
    if stop.reason is Reason.EVICTED:
        assert world.now - (victim.ready_at or 0) >= world.limits.min_dwell_s


@pytest.mark.parametrize("seed", range(4))
def test_memory_is_never_overcommitted_and_every_wait_has_a_reason(seed: int) -> None:
    yard = SimulatedYard(random.Random(seed))
    for _ in range(STEPS):
        world, plan = yard.step()
        yard.check_memory()
        for stop in plan.stops:
            check_stop(stop, world)
        starting = {start.model for start in plan.starts}
        live = {one.model for one in world.instances if one.state in LIVE and one.state is not S.DRAINING}
        for fetch in plan.fetches:
            assert fetch.node not in {option.node for option in world.options[fetch.model]}
            assert not world.nodes[fetch.node].cordoned
        for name, count in yard.queue.items():
            assert not count or name in starting | live | plan.reasons.keys(), (
                f"{name} waits without a reason"
            )
        assert make_plan(world) == plan, "the same world, the same plan"


@pytest.mark.parametrize("seed", range(20))
def test_two_models_that_fit_one_at_a_time_take_turns(seed: int) -> None:
    """Both have requests all the time."""
    yard = SimulatedYard(random.Random(seed), cordons=False)
    yard.capacities = {"n": NodeCapacity(memory_bytes={"gpu0": 10})}
    need = (Option(node="n", needs=(MemoryNeed(device="gpu0", memory_bytes=8),)),)
    yard.options = dict.fromkeys(MODELS, need)
    yard.specs = {name: ModelSpec(name=name, path="m.gguf") for name in "ab"}
    waited: Counter[str] = Counter()
    for _ in range(600):
        for name in "ab":
            yard.queue[name] = max(yard.queue[name], 1)
        world, _ = yard.step()
        for name in "ab":
            since = world.demand[name].since
            waited[name] = max(waited[name], int(world.now - since) if since else 0)
    # Its own turn, the other's turn, and loading and draining in between.
    assert all(0 < longest < 120 for longest in waited.values()), waited
    turns = yard.count
    assert turns < yard.now / 5, "no model is loaded more often than the limits allow"
