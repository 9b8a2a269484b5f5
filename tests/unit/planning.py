"""Worlds for the tests of the plan, in a few words."""

from dataclasses import dataclass, field

from schemas.groups import ModelGroup
from schemas.instances import Instance, InstanceState, Reason, Reserved
from schemas.models import ModelSpec
from schemas.placing import Need, Option
from services.supervisor.planning.plan import plan
from services.supervisor.planning.world import Demand, Fetch, NodeRoom, StartModel, World

NOW = 10_000.0
GIB = 1024**3


def spec(name: str, **fields: object) -> ModelSpec:
    return ModelSpec(name=name, path=f"{name}.gguf", **fields)  # type: ignore[arg-type]


def instance(
    model: str,
    gib: float = 0.0,
    state: InstanceState = InstanceState.READY,
    *,
    device: str = "gpu0",
    age_s: float = 1000.0,
    rested_s: float | None = None,
    **fields: object,
) -> Instance:
    """One that got ready `age_s` ago and has rested since, or for `rested_s`."""
    return Instance(
        **{
            "instance": f"{model}-{state}",
            "model": model,
            "node": "n",
            "engine": "e",
            "revision": 1,
            "state": state,
            "reason": Reason.REQUESTED,
            "changed_at": NOW - age_s,
            "ready_at": NOW - age_s,
            "used_at": None if rested_s is None else NOW - rested_s,
            "load_s": 10.0,
            "slots": 4,
            "reserved": (Reserved(device=device, predicted_bytes=int(gib * GIB)),) if gib else (),
            **fields,
        }
    )  # type: ignore[arg-type]


def option(gib: float = 0.0, profile: str | None = None, *, node: str = "n", device: str = "gpu0") -> Option:
    return Option(node=node, profile=profile, needs=(Need(device=device, memory_bytes=int(gib * GIB)),))


def room(gib: float = 16.0, *, cordoned: bool = False) -> NodeRoom:
    return NodeRoom(memory_bytes={"gpu0": int(gib * GIB)}, cordoned=cordoned)


def asked(waiting: int = 1, waited_s: float = 0.0) -> Demand:
    return Demand(waiting=waiting, since=NOW - waited_s)


ANY_TIME = object()
NOBODY: dict[str, Demand] = {}


@dataclass
class Case:
    """A world in which `a` is asked for unless it says otherwise, and what comes of it."""

    name: str
    instances: tuple[Instance, ...] = ()
    demand: dict[str, Demand] = field(default_factory=lambda: {"a": asked()})
    options: dict[str, tuple[Option, ...]] = field(default_factory=dict)
    models: tuple[ModelSpec, ...] = ()
    wanted: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()
    nodes: dict[str, NodeRoom] = field(default_factory=lambda: {"n": room(16)})
    groups: tuple[ModelGroup, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    fetches: dict[str, tuple[Fetch, ...]] = field(default_factory=dict)
    fetching: dict[str, str] = field(default_factory=dict)
    unfetched: dict[str, str] = field(default_factory=dict)
    fetched: tuple[str, ...] = ()
    """What is ordered."""
    starts: tuple[str, ...] = ()
    stops: dict[str, Reason] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    hopeless: frozenset[str] = frozenset()
    look_again_s: float | object | None = ANY_TIME

    def world(self) -> World:
        specs = {name: spec(name) for name in "abcd"} | {one.name: one for one in self.models}
        return World(
            now=NOW,
            models=specs,
            instances=self.instances,
            demand=self.demand,
            wanted=self.wanted,
            held=self.held,
            nodes=self.nodes,
            options={name: (option(),) for name in specs} | self.options,
            replaced=self.replaced,
            groups=self.groups,
            problems=self.problems,
            fetches=self.fetches,
            fetching=self.fetching,
            unfetched=self.unfetched,
        )


def _told(start: StartModel) -> str:
    at = "" if start.option.node == "n" else f"@{start.option.node}"
    how = f":{start.option.profile}" if start.option.profile else ""
    return f"{start.model}{how}{at}"


def check(case: Case) -> None:
    """The plan of its world is what it says."""
    made = plan(case.world())
    assert tuple(map(_told, made.starts)) == case.starts
    assert {one.model: one.reason for one in made.stops} == case.stops
    assert made.reasons.keys() == case.reasons.keys(), made.reasons
    assert made.hopeless == case.hopeless
    assert tuple(f"{one.model}@{one.node}" for one in made.fetches) == case.fetched
    for name, words in case.reasons.items():
        assert words in made.reasons[name]
    if case.look_again_s is None:
        assert made.look_again_at is None
    elif case.look_again_s is not ANY_TIME:
        assert made.look_again_at == NOW + case.look_again_s  # type: ignore[operator]
