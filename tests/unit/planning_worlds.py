"""Worlds for the tests of the plan, and what their plans are expected to be."""

from dataclasses import dataclass, field

from schemas.instances import Instance, InstanceState, Reason, Reserved
from schemas.models import ModelSpec
from schemas.placement import MemoryNeed, Option
from schemas.registry import ModelGroup
from services.supervisor.planning.plan import make_plan
from services.supervisor.planning.world import Demand, FetchOption, NodeCapacity, PlannedStart, World

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
    idle_s: float | None = None,
    **fields: object,
) -> Instance:
    """One that got ready `age_s` ago and has been idle since, or for `idle_s`."""
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
            "used_at": None if idle_s is None else NOW - idle_s,
            "load_s": 10.0,
            "slots": 4,
            "reserved": (Reserved(device=device, predicted_bytes=int(gib * GIB)),) if gib else (),
            **fields,
        }
    )  # type: ignore[arg-type]


def option(gib: float = 0.0, profile: str | None = None, *, node: str = "n", device: str = "gpu0") -> Option:
    return Option(node=node, profile=profile, needs=(MemoryNeed(device=device, memory_bytes=int(gib * GIB)),))


def capacity(gib: float = 16.0, *, cordoned: bool = False) -> NodeCapacity:
    return NodeCapacity(memory_bytes={"gpu0": int(gib * GIB)}, cordoned=cordoned)


def queued(count: int = 1, waited_s: float = 0.0) -> Demand:
    return Demand(queued=count, since=NOW - waited_s)


ANY_TIME = object()
NO_DEMAND: dict[str, Demand] = {}


@dataclass
class Case:
    """A world in which a request for `a` is queued unless `demand` differs, and its expected plan."""

    name: str
    instances: tuple[Instance, ...] = ()
    demand: dict[str, Demand] = field(default_factory=lambda: {"a": queued()})
    options: dict[str, tuple[Option, ...]] = field(default_factory=dict)
    models: tuple[ModelSpec, ...] = ()
    start_requested: frozenset[str] = frozenset()
    stop_requested: frozenset[str] = frozenset()
    outdated: frozenset[str] = frozenset()
    nodes: dict[str, NodeCapacity] = field(default_factory=lambda: {"n": capacity(16)})
    groups: tuple[ModelGroup, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    fetch_options: dict[str, tuple[FetchOption, ...]] = field(default_factory=dict)
    fetches_running: dict[str, str] = field(default_factory=dict)
    fetches_failed: dict[str, str] = field(default_factory=dict)
    fetches: tuple[str, ...] = ()
    """Expected: model and node."""
    starts: tuple[str, ...] = ()
    stops: dict[str, Reason] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unsatisfiable: frozenset[str] = frozenset()
    next_evaluation_s: float | object | None = ANY_TIME

    def world(self) -> World:
        specs = {name: spec(name) for name in "abcd"} | {one.name: one for one in self.models}
        return World(
            now=NOW,
            models=specs,
            instances=self.instances,
            demand=self.demand,
            start_requested=self.start_requested,
            stop_requested=self.stop_requested,
            nodes=self.nodes,
            options={name: (option(),) for name in specs} | self.options,
            outdated=self.outdated,
            groups=self.groups,
            problems=self.problems,
            fetch_options=self.fetch_options,
            fetches_running=self.fetches_running,
            fetches_failed=self.fetches_failed,
        )


def _brief(start: PlannedStart) -> str:
    at = "" if start.option.node == "n" else f"@{start.option.node}"
    how = f":{start.option.profile}" if start.option.profile else ""
    return f"{start.model}{how}{at}"


def check(case: Case) -> None:
    """The plan of its world is as expected."""
    plan = make_plan(case.world())
    assert tuple(map(_brief, plan.starts)) == case.starts
    assert {one.model: one.reason for one in plan.stops} == case.stops
    assert plan.reasons.keys() == case.reasons.keys(), plan.reasons
    assert plan.unsatisfiable == case.unsatisfiable
    assert tuple(f"{one.model}@{one.node}" for one in plan.fetches) == case.fetches
    for name, text in case.reasons.items():
        assert text in plan.reasons[name]
    if case.next_evaluation_s is None:
        assert plan.next_evaluation_at is None
    elif case.next_evaluation_s is not ANY_TIME:
        assert plan.next_evaluation_at == NOW + case.next_evaluation_s  # type: ignore[operator]
