"""Tables of the scheduler's decision: who starts, and whose memory it is."""

import pytest

from schemas.instances import InstanceState, Reason
from services.supervisor.planning.plan import plan
from services.supervisor.planning.world import Demand
from tests.unit.planning import NOBODY, NOW, Case, asked, check, instance, option, room, spec

S = InstanceState
EVICTED, IDLE, REPLACED = Reason.EVICTED, Reason.IDLE, Reason.REPLACED
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
    Case("stopped by a person, and still answering: nothing starts beside it", held=frozenset("a")),
    Case(
        "a cordoned node takes no start",
        nodes={"n": room(cordoned=True)},
        reasons={"a": "n could run it, but is cordoned"},
    ),
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
        reasons={"b": "its memory goes to a first"},
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
        hopeless=frozenset("a"),
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
        reasons={"a": "what b gives back", "d": "its memory goes to a first"},
    ),
    Case(
        "nobody takes what was made free for another",
        (instance("b", 10, S.DRAINING),),
        demand={"a": asked(waited_s=9), "c": asked()},
        options={"a": (option(16),), "c": (option(2),)},
        reasons={"a": "what b gives back", "c": "its memory goes to a first"},
    ),
    Case(
        "the higher priority is served first",
        demand={"a": asked(waited_s=9), "b": asked()},
        models=(spec("b", priority=1),),
        options={"a": (option(10),), "b": (option(10),)},
        starts=("b",),
        reasons={"a": "its memory goes to b first"},
    ),
]


@pytest.mark.parametrize("case", ONE_BY_ONE + MEMORY, ids=lambda case: case.name)
def test_plan(case: Case) -> None:
    check(case)


def test_failures_are_counted_on() -> None:
    case = Case("", (instance("a", state=S.FAILED, failures=3, retry_at=NOW - 1),))
    assert plan(case.world()).starts[0].failures == 3


def test_a_person_who_asks_for_a_start_closes_the_circuit() -> None:
    failed = instance("a", state=S.FAILED, failures=5, retry_at=NOW + 600, circuit_open=True)
    waits = plan(Case("", (failed,)).world())
    assert (waits.starts, waits.look_again_at) == ((), NOW + 600)
    assert "failed too often" in waits.reasons["a"]
    assert plan(Case("", (failed,), wanted=frozenset("a")).world()).starts[0].failures == 0
