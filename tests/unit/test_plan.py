"""Tables of the scheduler's decision."""

from dataclasses import dataclass, field

import pytest

from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelSpec
from schemas.placing import Option
from schemas.profiles import Replicas
from services.supervisor.planning.plan import plan
from services.supervisor.planning.world import Demand, Group, NodeRoom, StartModel, World
from tests.unit.planning import NOW, asked, instance, option, room, spec

S = InstanceState
ANY_TIME = object()


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
    apart: tuple[Group, ...] = ()
    starts: tuple[str, ...] = ()
    stops: dict[str, Reason] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
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
            apart=self.apart,
        )


EVICTED, IDLE, REPLACED = Reason.EVICTED, Reason.IDLE, Reason.REPLACED
NOBODY: dict[str, Demand] = {}
WAITS = {"a": asked(waited_s=30)}

ONE_BY_ONE = [
    Case("nothing to do", demand=NOBODY, look_again_s=None),
    Case("a request for a stopped model starts it", starts=("a",)),
    Case("many requests start it once", demand={"a": asked(100)}, starts=("a",)),
    Case("two models are started", demand={"b": asked(), "a": asked()}, starts=("a", "b")),
    Case("no request, no start", demand={"a": Demand()}),
    Case("a wish starts it", demand=NOBODY, wanted=frozenset("a"), starts=("a",)),
    Case("an unknown model is left alone", demand={"x": asked()}),
    Case("ready: nothing to do", (instance("a"),)),
    *(
        Case(f"{state}: it comes", (instance("a", state=state),), reasons={"a": "being started"})
        for state in (S.STARTING, S.LOADING, S.PROBING)
    ),
    *(
        Case(
            f"{state}, with room for one more: it starts at once",
            (instance("a", state=state),),
            starts=("a",),
        )
        for state in (S.DRAINING, S.STOPPING, S.STOPPED)
    ),
    Case(
        "failed a while ago: tried again", (instance("a", state=S.FAILED, retry_at=NOW - 1),), starts=("a",)
    ),
    Case(
        "failed just now: it pauses",
        (instance("a", state=S.FAILED, retry_at=NOW + 4),),
        reasons={"a": "tried again in 4 s"},
        look_again_s=4,
    ),
    Case(
        "a person does not wait out a pause",
        (instance("a", state=S.FAILED, retry_at=NOW + 4),),
        wanted=frozenset("a"),
        starts=("a",),
    ),
    Case("no node was asked yet", options={"a": ()}, reasons={"a": "no node that could run it"}),
    Case("autostart", demand=NOBODY, models=(spec("a", autostart=True),), starts=("a",)),
    Case(
        "stopped by a person: autostart leaves it alone",
        demand=NOBODY,
        models=(spec("a", autostart=True),),
        held=frozenset("a"),
    ),
    Case(
        "stopped by a person: a request starts it",
        models=(spec("a", autostart=True),),
        held=frozenset("a"),
        starts=("a",),
    ),
    Case("a cordoned node takes no start", nodes={"n": room(cordoned=True)}, reasons={"a": "no node"}),
    Case(
        "the node with room is taken",
        (instance("b", 10, busy=1),),
        options={"a": (option(8), option(8, node="m"))},
        nodes={"n": room(16), "m": room(16)},
        starts=("a@m",),
    ),
]

MEMORY = [
    Case(
        "two starts at once on a device for one: one starts, one waits",
        demand={"a": asked(), "b": asked()},
        options={"a": (option(10),), "b": (option(10),)},
        starts=("a",),
        reasons={"b": "its memory is held"},
    ),
    Case(
        "a smaller profile is taken before anybody is evicted",
        (instance("b", 12),),
        options={"a": (option(10, "large"), option(3, "small"))},
        starts=("a:small",),
    ),
    Case(
        "only the one that frees enough goes",
        (*(instance(name, 1) for name in "bcd"), instance("e", 9)),
        models=(spec("e"),),
        options={"a": (option(10),)},
        nodes={"n": room(16)},
        stops={"e": EVICTED},
        reasons={"a": "e makes room for it"},
    ),
    Case(
        "the one that rested longest goes",
        (instance("b", 8, rested_s=500), instance("c", 8, rested_s=5)),
        options={"a": (option(8),)},
        stops={"b": EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "the one that is quick to load goes",
        (instance("b", 8, load_s=60.0), instance("c", 8, load_s=2.0)),
        options={"a": (option(8),)},
        stops={"c": EVICTED},
        reasons={"a": "c makes room"},
    ),
    Case(
        "nothing helps: nobody is evicted",
        (instance("b", 8),),
        options={"a": (option(20),)},
        reasons={"a": "it needs 20.0 GiB on gpu0 of n, which has 16.0 GiB for models"},
        look_again_s=None,
    ),
    Case(
        "what others hold may not leave: nobody is evicted",
        (instance("b", 8), instance("c", 6, busy=1)),
        options={"a": (option(12),)},
        reasons={"a": "its memory is held by b and c"},
        look_again_s=20,
    ),
    *(
        Case(
            f"{why}: it stays",
            (instance("b", 10, **fields),),  # type: ignore[arg-type]
            demand={"a": asked(), "b": Demand(waiting=waiting)},
            models=(spec("b", pinned=pinned),),
            wanted=wanted,
            options={"a": (option(10),)},
            reasons={"a": "its memory is held by b"},
        )
        for why, fields, pinned, waiting, wanted in (
            ("pinned", {}, True, 0, frozenset[str]()),
            ("busy", {"busy": 1}, False, 0, frozenset[str]()),
            ("asked for", {}, False, 1, frozenset[str]()),
            ("somebody's wish", {}, False, 0, frozenset("b")),
            ("being started", {"state": S.LOADING}, False, 0, frozenset[str]()),
            ("just loaded", {"age_s": 2.0}, False, 0, frozenset[str]()),
        )
    ),
    Case(
        "what is leaving is waited for, and nobody else goes",
        (instance("b", 10, S.DRAINING), instance("c", 6)),
        options={"a": (option(10),)},
        reasons={"a": "what b gives back"},
    ),
    Case(
        "what is leaving is given once",
        (instance("b", 10, S.STOPPING), instance("c", 6)),
        demand={"a": asked(waited_s=1), "d": asked()},
        options={"a": (option(10),), "d": (option(10),)},
        reasons={"a": "what b gives back", "d": "its memory is held by"},
    ),
    Case(
        "nobody takes what was made free for another",
        (instance("b", 10, S.DRAINING),),
        demand={"a": asked(waited_s=9), "c": asked()},
        options={"a": (option(16),), "c": (option(2),)},
        reasons={"a": "what b gives back", "c": "its memory is held by b"},
    ),
    Case(
        "the higher priority is served first",
        demand={"a": asked(waited_s=9), "b": asked()},
        models=(spec("b", priority=1),),
        options={"a": (option(10),), "b": (option(10),)},
        starts=("b",),
        reasons={"a": "its memory is held"},
    ),
]

TURNS = [
    Case(
        "in use, and nobody waited too long",
        (instance("b", 10, busy=1),),
        {"a": asked(waited_s=5), "b": asked()},
        {"a": (option(10),)},
        reasons={"a": "may not leave now"},
        look_again_s=15,
    ),
    Case(
        "somebody waited too long: the one in use yields",
        (instance("b", 10, busy=1),),
        {"a": asked(waited_s=21), "b": asked()},
        {"a": (option(10),)},
        stops={"b": EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "not before it has stayed a while",
        (instance("b", 10, busy=1, age_s=2),),
        {"a": asked(waited_s=30), "b": asked()},
        {"a": (option(10),)},
        reasons={"a": "may not leave now"},
        look_again_s=3,
    ),
    Case(
        "pinned models never yield",
        (instance("b", 10, busy=1),),
        {"a": asked(waited_s=300), "b": asked()},
        {"a": (option(10),)},
        (spec("b", pinned=True),),
        reasons={"a": "may not leave now"},
        look_again_s=None,
    ),
    Case(
        "one that has yielded and is asked for waits for its turn",
        (instance("a", 10, S.DRAINING), instance("b", 10, S.STOPPED)),
        {"a": asked(waited_s=1), "b": asked(waited_s=25)},
        {"a": (option(10),), "b": (option(10),)},
        reasons={"b": "what a gives back", "a": "its memory is held"},
    ),
]

RESTING = [
    Case(
        "idle too long: unloaded",
        (instance("b", rested_s=61),),
        NOBODY,
        models=(spec("b", ttl_s=60.0),),
        stops={"b": IDLE},
    ),
    Case(
        "not idle for long enough",
        (instance("b", rested_s=50),),
        NOBODY,
        models=(spec("b", ttl_s=60.0),),
        look_again_s=10,
    ),
    Case("busy is not idle", (instance("b", busy=1, rested_s=99),), NOBODY, models=(spec("b", ttl_s=60.0),)),
    Case("without a limit it stays", (instance("b", rested_s=1e6),), NOBODY, look_again_s=None),
    *(
        Case(
            f"{field} keeps it",
            (instance("b", rested_s=99),),
            NOBODY,
            models=(spec("b", ttl_s=60.0, **{field: True}),),
        )
        for field in ("autostart", "pinned")
    ),
    Case(
        "a changed model drains",
        (instance("b"),),
        NOBODY,
        replaced=frozenset({"b-ready"}),
        stops={"b": REPLACED},
    ),
    Case(
        "a changed model comes back",
        (instance("b", state=S.DRAINING, reason=REPLACED),),
        NOBODY,
        starts=("b",),
    ),
    Case("a deleted model goes", (instance("x"),), NOBODY, stops={"x": Reason.REQUESTED}),
]

MANY = [
    Case(
        "a long queue gets a second instance",
        (instance("a", instance="a1"),),
        {"a": asked(9)},
        models=(spec("a", replicas=Replicas(max=2)),),
        starts=("a",),
    ),
    Case(
        "but not a third",
        tuple(instance("a", instance=f"a{n}") for n in "12"),
        {"a": asked(99)},
        models=(spec("a", replicas=Replicas(max=2)),),
    ),
    Case(
        "nobody is evicted for a second one",
        (instance("a", 8), instance("b", 8)),
        {"a": asked(9)},
        {"a": (option(8),)},
        (spec("a", replicas=Replicas(max=2)),),
    ),
    Case(
        "at least two",
        demand=NOBODY,
        instances=(instance("a"),),
        models=(spec("a", replicas=Replicas(min=2, max=2)),),
        starts=("a",),
    ),
    Case(
        "an idle replica goes",
        tuple(instance("a", instance=f"a{n}", rested_s=90) for n in "12"),
        NOBODY,
        models=(spec("a", replicas=Replicas(max=2)),),
        stops={"a": IDLE},
    ),
    Case(
        "models that never run together",
        (instance("b"),),
        apart=(Group(name="g", models=("a", "b")),),
        stops={"b": EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "models that never run together, one of them in use",
        (instance("b", busy=1),),
        apart=(Group(name="g", models=("a", "b")),),
        reasons={"a": "never runs beside b"},
    ),
    Case(
        "two that never run together are asked for at once",
        demand={"a": asked(waited_s=1), "b": asked()},
        apart=(Group(name="g", models=("a", "b")),),
        starts=("a",),
        reasons={"b": "never runs beside a"},
    ),
]


def _told(start: StartModel) -> str:
    at = "" if start.option.node == "n" else f"@{start.option.node}"
    how = f":{start.option.profile}" if start.option.profile else ""
    return f"{start.model}{how}{at}"


@pytest.mark.parametrize("case", ONE_BY_ONE + MEMORY + TURNS + RESTING + MANY, ids=lambda case: case.name)
def test_plan(case: Case) -> None:
    made = plan(case.world())
    assert tuple(map(_told, made.starts)) == case.starts
    assert {one.model: one.reason for one in made.stops} == case.stops
    assert made.reasons.keys() == case.reasons.keys(), made.reasons
    for name, words in case.reasons.items():
        assert words in made.reasons[name]
    if case.look_again_s is None:
        assert made.look_again_at is None
    elif case.look_again_s is not ANY_TIME:
        assert made.look_again_at == NOW + case.look_again_s  # type: ignore[operator]


def test_failures_are_counted_on() -> None:
    case = Case("", (instance("a", state=S.FAILED, failures=3, retry_at=NOW - 1),))
    assert plan(case.world()).starts[0].failures == 3


def test_a_person_who_asks_for_a_start_closes_the_circuit() -> None:
    failed = instance("a", state=S.FAILED, failures=5, retry_at=NOW + 600, circuit_open=True)
    waits = plan(Case("", (failed,)).world())
    assert (waits.starts, waits.look_again_at) == ((), NOW + 600)
    assert "failed too often" in waits.reasons["a"]
    assert plan(Case("", (failed,), wanted=frozenset("a")).world()).starts[0].failures == 0
