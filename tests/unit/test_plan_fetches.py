"""The plan where a model's files are not on every node."""

import pytest

from schemas.instances import InstanceState
from schemas.profiles import Replicas
from services.supervisor.planning.explain import explain
from services.supervisor.planning.plan import make_plan
from services.supervisor.planning.world import FetchOption
from tests.unit.planning_worlds import NOW, Case, capacity, check, instance, option, queued, spec

S = InstanceState
TWO = {"n": capacity(16), "m": capacity(16)}


def to(node: str, gib: float = 4.0) -> FetchOption:
    """Copied from n, where the files are."""
    return FetchOption(option=option(gib, node=node), source="n", size="4.1 GB")


def lacking(name: str, **case: object) -> Case:
    """A request for `a` is queued; its file is on n, and m lacks it."""
    return Case(
        **{
            "name": name,
            "nodes": TWO,
            "options": {"a": (option(4),)},
            "fetch_options": {"a": (to("m"),)},
            "next_evaluation_s": None,
            **case,
        }
    )  # type: ignore[arg-type]


NOWHERE = {"options": {"a": (option(node="m"),)}, "problems": {"a": "The file is not in the store."}}
"""The options for a file that no node has: a start that will fail."""
CASES = [
    lacking("room where its files are: nothing is fetched", starts=("a",)),
    lacking(
        "the node with its files is full for now: it is waited for, not copied",
        instances=(instance("b", 14, busy=1, idle_s=0),),
        demand={"a": queued(), "b": queued()},
        reasons={"a": "held by b"},
        next_evaluation_s=20,
    ),
    lacking(
        "too large for the node that has its files: to one where it fits",
        nodes={"n": capacity(2), "m": capacity(16)},
        fetches=("a@m",),
        reasons={"a": "brought to m first, 4.1 GB from n"},
    ),
    lacking(
        "that node is cordoned: to another",
        nodes={"n": capacity(cordoned=True), "m": capacity()},
        fetches=("a@m",),
        reasons={"a": "brought to m first"},
    ),
    lacking(
        "never to a node that is cordoned itself",
        nodes={"n": capacity(cordoned=True), "m": capacity(cordoned=True)},
        reasons={"a": "n could run it, but is cordoned"},
    ),
    lacking(
        "too large for every node: refused, and nothing is copied",
        nodes={"n": capacity(2), "m": capacity(3)},
        reasons={"a": "it needs 4.0 GiB on gpu0 of n"},
        unsatisfiable=frozenset("a"),
    ),
    lacking(
        "a node with free memory is preferred",
        nodes={"n": capacity(2), "m": capacity(16), "o": capacity(16)},
        instances=(instance("b", 14, node="m"),),
        fetch_options={"a": (to("m"), to("o"))},
        fetches=("a@o",),
        reasons={"a": "brought to o first"},
    ),
    lacking(
        "else a node where memory would be evicted",
        nodes={"n": capacity(2), "m": capacity(16)},
        instances=(instance("b", 14, node="m"),),
        fetches=("a@m",),
        reasons={"a": "brought to m first"},
    ),
    lacking(
        "no node has its files, the hub does",
        **NOWHERE,
        fetch_options={"a": (FetchOption(option=option(node="m"), source="the hub"),)},
        fetches=("a@m",),
        reasons={"a": "brought to m first, from the hub"},
    ),
    lacking(
        "no node and no hub has them: a start that fails with the reason",
        **NOWHERE,
        fetch_options={},
        starts=("a@m",),
    ),
    lacking(
        "they are on their way",
        **NOWHERE,
        fetches_running={"a": "its files are being copied from n to m (34 %)"},
        reasons={"a": "(34 %)"},
    ),
    lacking(
        "their fetch failed: the reason is that failure",
        **NOWHERE,
        fetch_options={},
        fetches_failed={"a": "its files could not be brought to m: no space"},
        reasons={"a": "no space"},
        unsatisfiable=frozenset("a"),
    ),
    lacking(
        "to one node they could not be brought, to another they may",
        **NOWHERE,
        fetches_failed={"a": "its files could not be brought to n: no space"},
        fetches=("a@m",),
        reasons={"a": "brought to m"},
    ),
    lacking(
        "one that failed is not fetched for before its pause is over",
        **NOWHERE,
        instances=(instance("a", state=S.FAILED, retry_at=NOW + 4),),
        reasons={"a": "tried again in 4 s"},
        next_evaluation_s=4,
    ),
    lacking(
        "a second instance that must be is fetched for",
        models=(spec("a", replicas=Replicas(min=2, max=2)),),
        instances=(instance("a", 14),),
        options={"a": (option(14),)},
        fetch_options={"a": (to("m", 14),)},
        fetches=("a@m",),
        reasons={"a": "brought to m"},
    ),
    lacking(
        "a second one that would only be faster is not",
        models=(spec("a", replicas=Replicas(max=2)),),
        instances=(instance("a", 14, busy=4),),
        demand={"a": queued(50)},
        options={"a": (option(14),)},
        fetch_options={"a": (to("m", 14),)},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_plan_with_files_on_other_nodes(case: Case) -> None:
    check(case)


def test_the_answer_to_a_plan_query_names_the_fetch() -> None:
    world = lacking("", nodes={"n": capacity(2), "m": capacity(16)}).world()
    answer = explain("a", world, make_plan(world))
    assert answer.text == "a would wait: its files are brought to m first, 4.1 GB from n."
    assert (answer.node, answer.evicts) == ("m", ())


def test_victims_are_evicted_only_where_the_files_are() -> None:
    """A victim on another node stays as long as the files are not there."""
    world = lacking(
        "", nodes={"n": capacity(2), "m": capacity(16)}, instances=(instance("b", 14, node="m"),)
    ).world()
    assert make_plan(world).stops == ()
