"""Tables of the scheduler's decision."""

from dataclasses import dataclass, field

import pytest

from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelSpec
from services.supervisor.backoff import pause_s
from services.supervisor.plan import World, plan

NOW = 1000.0
S = InstanceState


def instance(
    state: InstanceState, model: str = "a", *, failures: int = 0, retry_at: float | None = None
) -> Instance:
    return Instance(
        instance=f"{model}-{state}",
        model=model,
        node="n",
        engine="e",
        revision=1,
        state=state,
        reason=Reason.REQUESTED,
        changed_at=NOW,
        failures=failures,
        retry_at=retry_at,
    )


@dataclass
class Case:
    name: str
    waiting: dict[str, int] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset()
    instances: tuple[Instance, ...] = ()
    starts: tuple[str, ...] = ()
    reason: str | None = None
    look_again_at: float | None = None


CASES = [
    Case("nothing to do"),
    Case("a request for a stopped model starts it", {"a": 1}, starts=("a",)),
    Case("many requests start it once", {"a": 100}, starts=("a",)),
    Case("two models are started", {"b": 1, "a": 1}, starts=("a", "b")),
    Case("no request, no start", {"a": 0}),
    Case("a wish starts it", wanted=frozenset({"a"}), starts=("a",)),
    Case("an unknown model is left alone", {"x": 3}),
    Case("ready: nothing to do", {"a": 1}, instances=(instance(S.READY),)),
    *(
        Case(f"{state}: it comes", {"a": 1}, instances=(instance(state),), reason="being started")
        for state in (S.STARTING, S.LOADING, S.PROBING)
    ),
    *(
        Case(f"{state}: wait until it is gone", {"a": 1}, instances=(instance(state),), reason="stopping")
        for state in (S.DRAINING, S.STOPPING)
    ),
    Case("stopped: start again", {"a": 1}, instances=(instance(S.STOPPED),), starts=("a",)),
    Case(
        "failed a moment ago: pause",
        {"a": 1},
        instances=(instance(S.FAILED, failures=1, retry_at=NOW + 5),),
        reason="tried again in 5 s",
        look_again_at=NOW + 5,
    ),
    Case(
        "failed long ago: start",
        {"a": 1},
        instances=(instance(S.FAILED, failures=1, retry_at=NOW - 1),),
        starts=("a",),
    ),
    Case(
        "a person does not wait out a pause",
        wanted=frozenset({"a"}),
        instances=(instance(S.FAILED, failures=3, retry_at=NOW + 50),),
        starts=("a",),
    ),
    Case(
        "another model's failure is its own",
        {"a": 1},
        instances=(instance(S.FAILED, "b", failures=1, retry_at=NOW + 5),),
        starts=("a",),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_plan(case: Case) -> None:
    models = {name: ModelSpec(name=name, path=f"{name}.gguf") for name in ("a", "b")}
    world = World(now=NOW, models=models, instances=case.instances, waiting=case.waiting, wanted=case.wanted)
    made = plan(world)
    assert tuple(start.model for start in made.starts) == case.starts
    assert made.look_again_at == case.look_again_at
    if case.reason is None:
        assert made.reasons == {}
    else:
        assert case.reason in made.reasons["a"]


def test_a_start_knows_how_often_it_failed_before() -> None:
    failed = instance(S.FAILED, failures=3, retry_at=NOW - 1)
    models = {"a": ModelSpec(name="a", path="a.gguf")}
    (start,) = plan(World(now=NOW, models=models, instances=(failed,), waiting={"a": 1})).starts
    assert start.failures == 3


def test_pauses_grow_and_end_at_a_minute() -> None:
    assert [pause_s(failures) for failures in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
