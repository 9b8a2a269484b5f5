"""Tables of the scheduler's decision where a model's files are not on every node."""

import pytest

from schemas.instances import InstanceState
from schemas.profiles import Replicas
from services.supervisor.planning.explain import explain
from services.supervisor.planning.plan import plan
from services.supervisor.planning.world import Fetch
from tests.unit.planning import NOW, Case, asked, check, instance, option, room, spec

S = InstanceState
TWO = {"n": room(16), "m": room(16)}


def to(node: str, gib: float = 4.0) -> Fetch:
    """Brought from n, where the files are."""
    return Fetch(option=option(gib, node=node), source="n", size="4.1 GB")


def lacking(name: str, **case: object) -> Case:
    """`a` is asked for; its file is on n, and m lacks it."""
    return Case(
        **{
            "name": name,
            "nodes": TWO,
            "options": {"a": (option(4),)},
            "fetches": {"a": (to("m"),)},
            "look_again_s": None,
            **case,
        }
    )  # type: ignore[arg-type]


NOWHERE = {"options": {"a": (option(node="m"),)}, "problems": {"a": "The file is not in the store."}}
"""What the nodes say of a file that none of them has: a start that will fail."""
CASES = [
    lacking("room where its files are: nothing is fetched", starts=("a",)),
    lacking(
        "the node with its files is full for now: it is waited for, not copied",
        instances=(instance("b", 14, busy=1, rested_s=0),),
        demand={"a": asked(), "b": asked()},
        reasons={"a": "held by b"},
        look_again_s=20,
    ),
    lacking(
        "too large for the node that has its files: to one where it fits",
        nodes={"n": room(2), "m": room(16)},
        fetched=("a@m",),
        reasons={"a": "brought to m first, 4.1 GB from n"},
    ),
    lacking(
        "that node is cordoned: to another",
        nodes={"n": room(cordoned=True), "m": room()},
        fetched=("a@m",),
        reasons={"a": "brought to m first"},
    ),
    lacking(
        "never to a node that is cordoned itself",
        nodes={"n": room(cordoned=True), "m": room(cordoned=True)},
        reasons={"a": "n could run it, but is cordoned"},
    ),
    lacking(
        "too large for every node: refused, and nothing is copied",
        nodes={"n": room(2), "m": room(3)},
        reasons={"a": "it needs 4.0 GiB on gpu0 of n"},
        hopeless=frozenset("a"),
    ),
    lacking(
        "rather where it fits at once",
        nodes={"n": room(2), "m": room(16), "o": room(16)},
        instances=(instance("b", 14, node="m"),),
        fetches={"a": (to("m"), to("o"))},
        fetched=("a@o",),
        reasons={"a": "brought to o first"},
    ),
    lacking(
        "else where somebody would make room",
        nodes={"n": room(2), "m": room(16)},
        instances=(instance("b", 14, node="m"),),
        fetched=("a@m",),
        reasons={"a": "brought to m first"},
    ),
    lacking(
        "no node has its files, the hub does",
        **NOWHERE,
        fetches={"a": (Fetch(option=option(node="m"), source="the hub"),)},
        fetched=("a@m",),
        reasons={"a": "brought to m first, from the hub"},
    ),
    lacking("nobody has them at all: a start that tells so", **NOWHERE, fetches={}, starts=("a@m",)),
    lacking(
        "they are on their way",
        **NOWHERE,
        fetching={"a": "its files are being copied from n to m (34 %)"},
        reasons={"a": "(34 %)"},
    ),
    lacking(
        "they could not be had: whoever waits is told",
        **NOWHERE,
        fetches={},
        unfetched={"a": "its files could not be brought to m: no space"},
        reasons={"a": "no space"},
        hopeless=frozenset("a"),
    ),
    lacking(
        "to one node they could not be brought, to another they may",
        **NOWHERE,
        unfetched={"a": "its files could not be brought to n: no space"},
        fetched=("a@m",),
        reasons={"a": "brought to m"},
    ),
    lacking(
        "one that failed is not fetched for before its pause is over",
        **NOWHERE,
        instances=(instance("a", state=S.FAILED, retry_at=NOW + 4),),
        reasons={"a": "tried again in 4 s"},
        look_again_s=4,
    ),
    lacking(
        "a second instance that must be is fetched for",
        models=(spec("a", replicas=Replicas(min=2, max=2)),),
        instances=(instance("a", 14),),
        options={"a": (option(14),)},
        fetches={"a": (to("m", 14),)},
        fetched=("a@m",),
        reasons={"a": "brought to m"},
    ),
    lacking(
        "a second one that would only be faster is not",
        models=(spec("a", replicas=Replicas(max=2)),),
        instances=(instance("a", 14, busy=4),),
        demand={"a": asked(50)},
        options={"a": (option(14),)},
        fetches={"a": (to("m", 14),)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan_for_files_that_are_elsewhere(case: Case) -> None:
    check(case)


def test_it_is_foreseen() -> None:
    world = lacking("", nodes={"n": room(2), "m": room(16)}).world()
    answer = explain("a", world, plan(world))
    assert answer.text == "a would wait: its files are brought to m first, 4.1 GB from n."
    assert (answer.node, answer.evicts) == ("m", ())


def test_what_is_evicted_is_evicted_where_the_files_are() -> None:
    """A victim elsewhere is left alone as long as the files are not there."""
    world = lacking("", nodes={"n": room(2), "m": room(16)}, instances=(instance("b", 14, node="m"),)).world()
    assert plan(world).stops == ()
