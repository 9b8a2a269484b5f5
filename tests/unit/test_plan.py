"""The plan: which models start, what is evicted for them, and why they wait."""

import pytest

from schemas.instances import InstanceState, Reason
from services.supervisor.planning.plan import make_plan
from services.supervisor.planning.world import Demand
from tests.unit.planning_worlds import NO_DEMAND, NOW, Case, capacity, check, instance, option, queued, spec

S = InstanceState
EVICTED, IDLE, REPLACED = Reason.EVICTED, Reason.IDLE, Reason.REPLACED
ONE_BY_ONE = [
    Case("nothing to do", demand=NO_DEMAND, next_evaluation_s=None),
    Case("a request for a stopped model starts it", starts=("a",)),
    Case("many requests start it once", demand={"a": queued(100)}, starts=("a",)),
    Case("two models are started", demand={"b": queued(), "a": queued()}, starts=("a", "b")),
    Case("no request, no start", demand={"a": Demand()}),
    Case("a start command starts it", demand=NO_DEMAND, start_requested=frozenset("a"), starts=("a",)),
    Case("an unknown model is ignored", demand={"x": queued()}),
    Case("ready: nothing to do", (instance("a"),)),
    *(
        Case(f"{state}: it is being started", (instance("a", state=state),), reasons={"a": "being started"})
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
        "failed just now: in back-off",
        (instance("a", state=S.FAILED, retry_at=NOW + 4),),
        reasons={"a": "tried again in 4 s"},
        next_evaluation_s=4,
    ),
    Case(
        "a start command skips the back-off",
        (instance("a", state=S.FAILED, retry_at=NOW + 4),),
        start_requested=frozenset("a"),
        starts=("a",),
    ),
    Case("no node was queried yet", options={"a": ()}, reasons={"a": "no node that could run it"}),
    Case("autostart", demand=NO_DEMAND, models=(spec("a", autostart=True),), starts=("a",)),
    Case(
        "stopped by command: autostart does not start it",
        demand=NO_DEMAND,
        models=(spec("a", autostart=True),),
        stop_requested=frozenset("a"),
    ),
    Case("stopped by command, requests in flight: no second instance starts", stop_requested=frozenset("a")),
    Case(
        "a cordoned node takes no start",
        nodes={"n": capacity(cordoned=True)},
        reasons={"a": "n could run it, but is cordoned"},
    ),
    Case(
        "the node with free memory is chosen",
        (instance("b", 10, busy=1),),
        options={"a": (option(8), option(8, node="m"))},
        nodes={"n": capacity(16), "m": capacity(16)},
        starts=("a@m",),
    ),
]

MEMORY = [
    Case(
        "two starts at once on a device for one: one starts, one waits",
        demand={"a": queued(), "b": queued()},
        options={"a": (option(10),), "b": (option(10),)},
        starts=("a",),
        reasons={"b": "its memory goes to a first"},
    ),
    Case(
        "a smaller profile is preferred to an eviction",
        (instance("b", 12),),
        options={"a": (option(10, "large"), option(3, "small"))},
        starts=("a:small",),
    ),
    Case(
        "only the instance that frees enough is evicted",
        (*(instance(name, 1) for name in "bcd"), instance("e", 9)),
        models=(spec("e"),),
        options={"a": (option(10),)},
        nodes={"n": capacity(16)},
        stops={"e": EVICTED},
        reasons={"a": "e makes room for it"},
    ),
    Case(
        "the longest idle instance is evicted",
        (instance("b", 8, idle_s=500), instance("c", 8, idle_s=5)),
        options={"a": (option(8),)},
        stops={"b": EVICTED},
        reasons={"a": "b makes room"},
    ),
    Case(
        "the instance that is quick to load is evicted",
        (instance("b", 8, load_s=60.0), instance("c", 8, load_s=2.0)),
        options={"a": (option(8),)},
        stops={"c": EVICTED},
        reasons={"a": "c makes room"},
    ),
    Case(
        "too large for every device: nothing is evicted",
        (instance("b", 8),),
        options={"a": (option(20),)},
        reasons={"a": "it needs 20.0 GiB on gpu0 of n, which has 16.0 GiB for models"},
        unsatisfiable=frozenset("a"),
        next_evaluation_s=None,
    ),
    Case(
        "not enough is evictable: nothing is evicted",
        (instance("b", 8), instance("c", 6, busy=1)),
        options={"a": (option(12),)},
        reasons={"a": "its memory is held by b and c"},
        next_evaluation_s=20,
    ),
    *(
        Case(
            f"{why}: it stays",
            (instance("b", 10, **fields),),  # type: ignore[arg-type]
            demand={"a": queued(), "b": Demand(queued=waiting)},
            models=(spec("b", pinned=pinned),),
            start_requested=wanted,
            options={"a": (option(10),)},
            reasons={"a": "its memory is held by b"},
        )
        for why, fields, pinned, waiting, wanted in (
            ("pinned", {}, True, 0, frozenset[str]()),
            ("busy", {"busy": 1}, False, 0, frozenset[str]()),
            ("requests queued", {}, False, 1, frozenset[str]()),
            ("started by command", {}, False, 0, frozenset("b")),
            ("being started", {"state": S.LOADING}, False, 0, frozenset[str]()),
            ("just loaded", {"age_s": 2.0}, False, 0, frozenset[str]()),
        )
    ),
    Case(
        "memory that is being released is waited for, nothing else is evicted",
        (instance("b", 10, S.DRAINING), instance("c", 6)),
        options={"a": (option(10),)},
        reasons={"a": "memory that b gives back"},
    ),
    Case(
        "memory that is being released is reserved once",
        (instance("b", 10, S.STOPPING), instance("c", 6)),
        demand={"a": queued(waited_s=1), "d": queued()},
        options={"a": (option(10),), "d": (option(10),)},
        reasons={"a": "memory that b gives back", "d": "its memory goes to a first"},
    ),
    Case(
        "memory freed for one model is reserved for it",
        (instance("b", 10, S.DRAINING),),
        demand={"a": queued(waited_s=9), "c": queued()},
        options={"a": (option(16),), "c": (option(2),)},
        reasons={"a": "memory that b gives back", "c": "its memory goes to a first"},
    ),
    Case(
        "the higher priority is served first",
        demand={"a": queued(waited_s=9), "b": queued()},
        models=(spec("b", priority=1),),
        options={"a": (option(10),), "b": (option(10),)},
        starts=("b",),
        reasons={"a": "its memory goes to b first"},
    ),
]


@pytest.mark.parametrize("case", ONE_BY_ONE + MEMORY, ids=lambda case: case.name)
def test_plan(case: Case) -> None:
    check(case)


def test_a_start_carries_the_failures_in_a_row() -> None:
    case = Case("", (instance("a", state=S.FAILED, failures=3, retry_at=NOW - 1),))
    assert make_plan(case.world()).starts[0].failures == 3


def test_a_start_command_closes_the_circuit() -> None:
    failed = instance("a", state=S.FAILED, failures=5, retry_at=NOW + 600, circuit_open=True)
    waits = make_plan(Case("", (failed,)).world())
    assert (waits.starts, waits.next_evaluation_at) == ((), NOW + 600)
    assert "failed too often" in waits.reasons["a"]
    assert make_plan(Case("", (failed,), start_requested=frozenset("a")).world()).starts[0].failures == 0
