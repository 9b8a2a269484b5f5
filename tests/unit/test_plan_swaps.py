"""The plan: swaps, idle instances, replicas and groups."""

import pytest

from schemas.instances import InstanceState, Reason
from schemas.profiles import Replicas
from schemas.registry import GroupKind, ModelGroup
from tests.unit.planning_worlds import NO_DEMAND, Case, check, instance, option, queued, spec

S = InstanceState
EVICTED, IDLE, REPLACED = Reason.EVICTED, Reason.IDLE, Reason.REPLACED
SWAPS = [
    Case(
        "in use, and no model has waited too long",
        (instance("b", 10, busy=1),),
        {"a": queued(waited_s=5), "b": queued()},
        {"a": (option(10),)},
        reasons={"a": "cannot be evicted now"},
        next_evaluation_s=15,
    ),
    Case(
        "a model waited too long: the one in use is evicted",
        (instance("b", 10, busy=1),),
        {"a": queued(waited_s=21), "b": queued()},
        {"a": (option(10),)},
        stops={"b": EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "not before its minimum dwell time",
        (instance("b", 10, busy=1, age_s=2),),
        {"a": queued(waited_s=30), "b": queued()},
        {"a": (option(10),)},
        reasons={"a": "cannot be evicted now"},
        next_evaluation_s=3,
    ),
    Case(
        "pinned models are never evicted",
        (instance("b", 10, busy=1),),
        {"a": queued(waited_s=300), "b": queued()},
        {"a": (option(10),)},
        (spec("b", pinned=True),),
        reasons={"a": "cannot be evicted now"},
        next_evaluation_s=None,
    ),
    Case(
        "an evicted model with requests waits for its turn",
        (instance("a", 10, S.DRAINING), instance("b", 10, S.STOPPED)),
        {"a": queued(waited_s=1), "b": queued(waited_s=25)},
        {"a": (option(10),), "b": (option(10),)},
        reasons={"b": "memory that a gives back", "a": "its memory goes to b first"},
    ),
]

IDLE_INSTANCES = [
    Case(
        "idle longer than its ttl: stopped",
        (instance("b", idle_s=61),),
        NO_DEMAND,
        models=(spec("b", ttl_s=60.0),),
        stops={"b": IDLE},
    ),
    Case(
        "idle shorter than its ttl",
        (instance("b", idle_s=50),),
        NO_DEMAND,
        models=(spec("b", ttl_s=60.0),),
        next_evaluation_s=10,
    ),
    Case("busy is not idle", (instance("b", busy=1, idle_s=99),), NO_DEMAND, models=(spec("b", ttl_s=60.0),)),
    Case("without a limit it stays", (instance("b", idle_s=1e6),), NO_DEMAND, next_evaluation_s=None),
    *(
        Case(
            f"{field} keeps it",
            (instance("b", idle_s=99),),
            NO_DEMAND,
            models=(spec("b", ttl_s=60.0, **{field: True}),),
        )
        for field in ("autostart", "pinned")
    ),
    Case(
        "an outdated instance drains",
        (instance("b"),),
        NO_DEMAND,
        outdated=frozenset({"b-ready"}),
        stops={"b": REPLACED},
    ),
    Case(
        "a replaced instance is started again",
        (instance("b", state=S.DRAINING, reason=REPLACED),),
        NO_DEMAND,
        starts=("b",),
    ),
    Case("an instance of a deleted model stops", (instance("x"),), NO_DEMAND, stops={"x": Reason.REQUESTED}),
]

APART = ModelGroup(name="g", kind=GroupKind.APART, models=("a", "b"))
TOGETHER = ModelGroup(name="h", kind=GroupKind.TOGETHER, models=("a", "b"))
REPLICAS_AND_GROUPS = [
    Case(
        "a long queue gets a second instance",
        (instance("a", instance="a1"),),
        {"a": queued(9)},
        models=(spec("a", replicas=Replicas(max=2)),),
        starts=("a",),
    ),
    Case(
        "but not a third",
        tuple(instance("a", instance=f"a{n}") for n in "12"),
        {"a": queued(99)},
        models=(spec("a", replicas=Replicas(max=2)),),
    ),
    Case(
        "nothing is evicted for a second instance",
        (instance("a", 8), instance("b", 8)),
        {"a": queued(9)},
        {"a": (option(8),)},
        (spec("a", replicas=Replicas(max=2)),),
    ),
    Case(
        "at least two",
        demand=NO_DEMAND,
        instances=(instance("a"),),
        models=(spec("a", replicas=Replicas(min=2, max=2)),),
        starts=("a",),
    ),
    Case(
        "an idle replica stops",
        tuple(instance("a", instance=f"a{n}", idle_s=90) for n in "12"),
        NO_DEMAND,
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
    Case("one that runs together with another starts both", groups=(TOGETHER,), starts=("a", "b")),
    Case(
        "but not one that was stopped by command",
        groups=(TOGETHER,),
        stop_requested=frozenset("b"),
        starts=("a",),
    ),
    Case(
        "they stay as long as one of them is in use",
        (instance("a", idle_s=99), instance("b", busy=1, idle_s=99)),
        {"b": queued()},
        models=(spec("a", ttl_s=60.0),),
        groups=(TOGETHER,),
        next_evaluation_s=60,
    ),
    Case(
        "they are evicted together",
        (instance("a", 10, idle_s=99), instance("b", 2)),
        {"c": queued()},
        {"c": (option(12),)},
        groups=(TOGETHER,),
        stops={"a": EVICTED, "b": EVICTED},
        reasons={"c": "a makes room"},
    ),
    Case(
        "two models of a group `apart` are requested at once",
        demand={"a": queued(waited_s=1), "b": queued()},
        groups=(APART,),
        starts=("a",),
        reasons={"b": "never runs beside a"},
    ),
]


@pytest.mark.parametrize("case", SWAPS + IDLE_INSTANCES + REPLICAS_AND_GROUPS, ids=lambda case: case.name)
def test_plan(case: Case) -> None:
    check(case)
