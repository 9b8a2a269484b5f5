"""Tables of the scheduler's decision: turns, rest, replicas and groups."""

import pytest

from schemas.groups import GroupKind, ModelGroup
from schemas.instances import InstanceState, Reason
from schemas.profiles import Replicas
from tests.unit.planning import NOBODY, Case, asked, check, instance, option, spec

S = InstanceState
EVICTED, IDLE, REPLACED = Reason.EVICTED, Reason.IDLE, Reason.REPLACED
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
        reasons={"b": "what a gives back", "a": "its memory goes to b first"},
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

APART = ModelGroup(name="g", kind=GroupKind.APART, models=("a", "b"))
TOGETHER = ModelGroup(name="h", kind=GroupKind.TOGETHER, models=("a", "b"))
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
        groups=(APART,),
        stops={"b": EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "models that never run together, one of them in use",
        (instance("b", busy=1),),
        groups=(APART,),
        reasons={"a": "never runs beside b"},
    ),
    Case("one that runs together with another brings it along", groups=(TOGETHER,), starts=("a", "b")),
    Case(
        "but not one that a person stopped",
        groups=(TOGETHER,),
        held=frozenset("b"),
        starts=("a",),
    ),
    Case(
        "they stay as long as one of them is in use",
        (instance("a", rested_s=99), instance("b", busy=1, rested_s=99)),
        {"b": asked()},
        models=(spec("a", ttl_s=60.0),),
        groups=(TOGETHER,),
        look_again_s=60,
    ),
    Case(
        "they go together",
        (instance("a", 10, rested_s=99), instance("b", 2)),
        {"c": asked()},
        {"c": (option(12),)},
        groups=(TOGETHER,),
        stops={"a": EVICTED, "b": EVICTED},
        reasons={"c": "a makes room"},
    ),
    Case(
        "two that never run together are asked for at once",
        demand={"a": asked(waited_s=1), "b": asked()},
        groups=(APART,),
        starts=("a",),
        reasons={"b": "never runs beside a"},
    ),
]


@pytest.mark.parametrize("case", TURNS + RESTING + MANY, ids=lambda case: case.name)
def test_plan(case: Case) -> None:
    check(case)
