"""Random worlds, step by step: no memory is given twice, and nobody waits without a reason."""

import random
from collections import Counter

import msgspec
import pytest

from schemas.instances import LIVE, Instance, InstanceState, Reason, Reserved
from schemas.models import ModelSpec
from schemas.placing import Need, Option
from schemas.profiles import Replicas
from services.supervisor.planning.plan import plan
from services.supervisor.planning.victims import in_use
from services.supervisor.planning.world import Demand, Fetch, NodeRoom, Plan, StartModel, StopModel, World

S = InstanceState
STEPS = 2500
MODELS = "abcdef"
NODES = {"n": {"gpu0": 16, "cpu": 24}, "m": {"gpu0": 8, "gpu1": 8, "cpu": 12}}


class Yard:
    """A yard without processes: starts become ready or fail, what drains is gone some time later."""

    def __init__(self, chance: random.Random, *, cordons: bool = True) -> None:
        self.chance = chance
        self.cordons = cordons
        self.now = 1000.0
        self.instances: dict[str, Instance] = {}
        self.queue: Counter[str] = Counter()
        self.since: dict[str, float] = {}
        self.specs = {name: self._spec(name) for name in MODELS}
        self.options = {name: self._options() for name in MODELS}
        self.files = {
            name: set(self.chance.sample(list(NODES), self.chance.choice((1, 2)))) for name in MODELS
        }
        """The nodes that have a model's files; the others may fetch them."""
        self.fetching: dict[str, str] = {}
        self.rooms = {node: NodeRoom(memory_bytes=dict(devices)) for node, devices in NODES.items()}
        self.count = 0

    def _spec(self, name: str) -> ModelSpec:
        return ModelSpec(
            name=name,
            path="m.gguf",
            pinned=self.chance.random() < 0.15,
            ttl_s=self.chance.choice((None, 30.0)),
            priority=self.chance.choice((0, 0, 1)),
            replicas=Replicas(max=self.chance.choice((1, 1, 3))),
        )

    def _options(self) -> tuple[Option, ...]:
        options = []
        for profile in ("large", "small"):
            size = self.chance.randint(2, 20) if profile == "large" else self.chance.randint(1, 8)
            for node, devices in NODES.items():
                device = self.chance.choice(list(devices))
                options.append(
                    Option(node=node, profile=profile, needs=(Need(device=device, memory_bytes=size),))
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
                name: Demand(waiting=count, since=self.since.get(name)) for name, count in self.queue.items()
            },
            nodes=self.rooms,
            options={name: self._ways(name, with_files=True) for name in MODELS},
            fetches={
                name: tuple(Fetch(option=way, source="a node") for way in self._ways(name, with_files=False))
                for name in MODELS
            },
            fetching={name: f"its files come to {node}" for name, node in self.fetching.items()},
        )

    def _ways(self, name: str, *, with_files: bool) -> tuple[Option, ...]:
        return tuple(way for way in self.options[name] if (way.node in self.files[name]) is with_files)

    def step(self) -> tuple[World, Plan]:
        self.now += self.chance.random() * 3
        if self.chance.random() < 0.4:
            self.queue[self.chance.choice(MODELS)] += self.chance.randint(1, 6)
        if self.cordons and self.chance.random() < 0.01:
            node = self.chance.choice(list(self.rooms))
            self.rooms[node] = msgspec.structs.replace(
                self.rooms[node], cordoned=not self.rooms[node].cordoned
            )
        for one in tuple(self.instances.values()):
            self._live(one)
        world = self.world()
        made = plan(world)
        for stop in made.stops:
            self._change(self.instances[stop.instance], state=S.DRAINING, reason=stop.reason)
        for start in made.starts:
            assert start.option.node in self.files[start.model]
            self._begin(start)
        if self.chance.random() < 0.05:
            self.files[self.chance.choice(MODELS)] = {self.chance.choice(list(NODES))}
        for name, node in tuple(self.fetching.items()):
            if self.chance.random() < 0.3:
                del self.fetching[name]
                # One in three fails, and may be tried again.
                self.files[name] |= {node} if self.chance.random() < 0.7 else set()
        for fetch in made.fetches:
            self.fetching[fetch.model] = fetch.node
        return world, made

    def _live(self, one: Instance) -> None:
        luck = self.chance.random()
        if one.state is S.STARTING and luck < 0.4:
            failed = luck < 0.05
            self._change(
                one,
                state=S.FAILED if failed else S.READY,
                ready_at=None if failed else self.now,
                retry_at=self.now + 2 if failed else None,
            )
        elif one.state is S.READY:
            self._serve(one, luck)
        elif (one.state is S.DRAINING and luck < 0.5) or (one.state is S.FAILED and luck < 0.2):
            del self.instances[one.instance]

    def _serve(self, one: Instance, luck: float) -> None:
        if luck < 0.01:
            self._change(one, state=S.FAILED, retry_at=self.now + 1, busy=0)
            return
        busy = min(self.queue[one.model], one.slots)
        done = self.chance.randint(0, busy)
        self.queue[one.model] -= done
        self._change(one, busy=busy - done, used_at=self.now if done else one.used_at)

    def _change(self, one: Instance, **changes: object) -> None:
        self.instances[one.instance] = msgspec.structs.replace(one, **changes)

    def _begin(self, start: StartModel) -> None:
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
            load_s=self.chance.random() * 30,
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


def check_stop(stop: StopModel, world: World) -> None:
    victim = next(one for one in world.instances if one.instance == stop.instance)
    assert victim.state is S.READY
    assert not world.models[stop.model].pinned or stop.reason is Reason.IDLE
    longest = max((world.now - demand.since for demand in world.demand.values() if demand.since), default=0)
    if in_use(victim, world):
        assert stop.reason is Reason.EVICTED
        assert longest >= world.rules.max_wait_s, "somebody had waited too long"
    if stop.reason is Reason.EVICTED:
        assert world.now - (victim.ready_at or 0) >= world.rules.min_dwell_s


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_steps(seed: int) -> None:
    yard = Yard(random.Random(seed))
    for _ in range(STEPS):
        world, made = yard.step()
        yard.check_memory()
        for stop in made.stops:
            check_stop(stop, world)
        starting = {start.model for start in made.starts}
        live = {one.model for one in world.instances if one.state in LIVE and one.state is not S.DRAINING}
        for fetch in made.fetches:
            assert fetch.node not in {way.node for way in world.options[fetch.model]}
            assert not world.nodes[fetch.node].cordoned
        for name, count in yard.queue.items():
            assert not count or name in starting | live | made.reasons.keys(), f"{name} waits without a word"
        assert plan(world) == made, "the same world, the same plan"


@pytest.mark.parametrize("seed", range(20))
def test_everybody_is_served_in_the_end(seed: int) -> None:
    """Two models that fit only one at a time, both asked for all the time: they take turns."""
    yard = Yard(random.Random(seed), cordons=False)
    yard.rooms = {"n": NodeRoom(memory_bytes={"gpu0": 10})}
    need = (Option(node="n", needs=(Need(device="gpu0", memory_bytes=8),)),)
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
    assert turns < yard.now / 5, "nobody is loaded more often than the rules allow"
