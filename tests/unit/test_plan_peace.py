"""Who never makes others leave, and who must not be there together, whatever the order of events was."""

import msgspec
import pytest

from schemas.groups import GroupKind, ModelGroup
from schemas.instances import InstanceState, Reason
from schemas.models import ModelSpec
from schemas.profiles import Replicas
from tests.unit.planning import NOBODY, Case, asked, check, instance, option, spec

APART = ModelGroup(name="rivals", kind=GroupKind.APART, models=("a", "b", "c"))
TEN = {"a": (option(10),), "b": (option(10),)}

CASES = [
    *(
        Case(
            f"{kept.name} with autostart or a least number of replicas waits for room",
            models=(kept,),
            instances=(instance("b", 10, rested_s=500),),
            demand=NOBODY,
            options=TEN,
            reasons={"a": "as soon as there is room"},
        )
        for kept in (spec("a", autostart=True), spec("a", replicas=Replicas(min=1)))
    ),
    Case(
        "two such models that do not fit together never take turns",
        models=(spec("a", autostart=True), spec("b", autostart=True)),
        instances=(instance("b", 10, rested_s=500),),
        demand=NOBODY,
        options=TEN,
        reasons={"a": "as soon as there is room"},
    ),
    Case(
        "nor do two that never run together",
        models=(spec("a", autostart=True), spec("b", autostart=True)),
        instances=(instance("b", 1, rested_s=500),),
        demand=NOBODY,
        groups=(APART,),
        reasons={"a": "as soon as there is room"},
    ),
    Case(
        "it takes what is leaving anyway",
        models=(spec("a", autostart=True),),
        instances=(instance("b", 10, InstanceState.STOPPING),),
        demand=NOBODY,
        options=TEN,
        reasons={"a": "gives back"},
    ),
    Case(
        "it evicts as any other as soon as somebody asks",
        models=(spec("a", autostart=True),),
        instances=(instance("b", 10, rested_s=500),),
        demand={"a": asked()},
        options=TEN,
        stops={"b": Reason.EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "a rule that comes later than the models ends all but the one used last",
        instances=(instance("a", 1, rested_s=50), instance("b", 1, rested_s=5), instance("c", 1)),
        demand=NOBODY,
        groups=(APART,),
        stops={"a": Reason.EVICTED, "c": Reason.EVICTED},
    ),
    Case(
        "one that is in use stays before one that rests",
        instances=(instance("a", 1, busy=1), instance("b", 1, rested_s=0)),
        demand=NOBODY,
        groups=(APART,),
        stops={"b": Reason.EVICTED},
    ),
    Case(
        "a pinned one stays before one that is in use",
        models=(spec("b", pinned=True),),
        instances=(instance("a", 1, busy=1), instance("b", 1)),
        demand=NOBODY,
        groups=(APART,),
        stops={"a": Reason.EVICTED},
    ),
    Case(
        "one that is there stays before one that is coming",
        instances=(instance("a", 1, InstanceState.LOADING), instance("b", 1)),
        demand=NOBODY,
        groups=(APART,),
        stops={"a": Reason.EVICTED},
    ),
    Case(
        "replicas of one model are no rivals",
        models=(spec("a", replicas=Replicas(min=2, max=2)),),
        instances=(
            instance("a", 1, rested_s=1),
            msgspec.structs.replace(instance("a", 1, rested_s=1), instance="a2"),
        ),
        demand=NOBODY,
        groups=(APART,),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_peace(case: Case) -> None:
    check(case)


def test_a_name_in_a_group_that_no_model_has_does_no_harm() -> None:
    gone = ModelGroup(name="g", kind=GroupKind.APART, models=("a", "nobody"))
    models: tuple[ModelSpec, ...] = (spec("a"),)
    check(Case("", models=models, groups=(gone,), starts=("a",)))
