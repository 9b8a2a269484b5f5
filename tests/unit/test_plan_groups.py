"""The plan: models that never evict others, and models of a group `apart`, in any order of events."""

import msgspec
import pytest

from schemas.instances import InstanceState, Reason
from schemas.models import ModelSpec
from schemas.profiles import Replicas
from schemas.registry import GroupKind, ModelGroup
from tests.unit.planning_worlds import NO_DEMAND, Case, check, instance, option, queued, spec

APART = ModelGroup(name="rivals", kind=GroupKind.APART, models=("a", "b", "c"))
TEN = {"a": (option(10),), "b": (option(10),)}

CASES = [
    *(
        Case(
            f"{loaded.name} with autostart or a least number of replicas waits for room",
            models=(loaded,),
            instances=(instance("b", 10, idle_s=500),),
            demand=NO_DEMAND,
            options=TEN,
            reasons={"a": "as soon as there is room"},
        )
        for loaded in (spec("a", autostart=True), spec("a", replicas=Replicas(min=1)))
    ),
    Case(
        "two such models that do not fit together never take turns",
        models=(spec("a", autostart=True), spec("b", autostart=True)),
        instances=(instance("b", 10, idle_s=500),),
        demand=NO_DEMAND,
        options=TEN,
        reasons={"a": "as soon as there is room"},
    ),
    Case(
        "two models of a group `apart` never take turns",
        models=(spec("a", autostart=True), spec("b", autostart=True)),
        instances=(instance("b", 1, idle_s=500),),
        demand=NO_DEMAND,
        groups=(APART,),
        reasons={"a": "as soon as there is room"},
    ),
    Case(
        "it uses memory that is being released",
        models=(spec("a", autostart=True),),
        instances=(instance("b", 10, InstanceState.STOPPING),),
        demand=NO_DEMAND,
        options=TEN,
        reasons={"a": "gives back"},
    ),
    Case(
        "it evicts as any other model once a request is queued",
        models=(spec("a", autostart=True),),
        instances=(instance("b", 10, idle_s=500),),
        demand={"a": queued()},
        options=TEN,
        stops={"b": Reason.EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "a group stored after its models run stops all but the one used last",
        instances=(instance("a", 1, idle_s=50), instance("b", 1, idle_s=5), instance("c", 1)),
        demand=NO_DEMAND,
        groups=(APART,),
        stops={"a": Reason.EVICTED, "c": Reason.EVICTED},
    ),
    Case(
        "one in use stays rather than an idle one",
        instances=(instance("a", 1, busy=1), instance("b", 1, idle_s=0)),
        demand=NO_DEMAND,
        groups=(APART,),
        stops={"b": Reason.EVICTED},
    ),
    Case(
        "a pinned one stays rather than one in use",
        models=(spec("b", pinned=True),),
        instances=(instance("a", 1, busy=1), instance("b", 1)),
        demand=NO_DEMAND,
        groups=(APART,),
        stops={"a": Reason.EVICTED},
    ),
    Case(
        "a ready one stays rather than a starting one",
        instances=(instance("a", 1, InstanceState.LOADING), instance("b", 1)),
        demand=NO_DEMAND,
        groups=(APART,),
        stops={"a": Reason.EVICTED},
    ),
    Case(
        "replicas of one model are no rivals",
        models=(spec("a", replicas=Replicas(min=2, max=2)),),
        instances=(
            instance("a", 1, idle_s=1),
            msgspec.structs.replace(instance("a", 1, idle_s=1), instance="a2"),
        ),
        demand=NO_DEMAND,
        groups=(APART,),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_plan(case: Case) -> None:
    check(case)


def test_an_unknown_name_in_a_group_is_ignored() -> None:
    group = ModelGroup(name="g", kind=GroupKind.APART, models=("a", "unknown"))
    models: tuple[ModelSpec, ...] = (spec("a"),)
    check(Case("", models=models, groups=(group,), starts=("a",)))
