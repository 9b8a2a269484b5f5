"""Placement of the workers of spread models."""

import pytest

from schemas.instances import EngineOffer, Instance, InstanceState, Node, Reason, Reserved, RpcOffer
from schemas.placement import MemoryNeed, NodeDevice, Option, WorkerPlacement
from schemas.profiles import ANY_NODE
from services.supervisor.planning.plan import make_plan
from services.supervisor.planning.worker_placement import place_workers
from services.supervisor.planning.world import NodeCapacity, World
from tests.unit.planning_worlds import GIB, NOW, instance, queued, spec

CPU = NodeDevice(device="cpu", name="main memory", memory_bytes=8 * GIB)
GPUS = tuple(
    NodeDevice(device=f"GPU-{name}", name="RTX", memory_bytes=size * GIB)
    for name, size in (("a", 8), ("b", 24))
)


def node(
    name: str,
    *devices: NodeDevice,
    host: str = "10.0.0.1",
    version: str | None = "100",
    problem: str | None = None,
    cordoned: bool = False,
) -> Node:
    return Node(
        node=name,
        version="0",
        started_at=0.0,
        engines=(EngineOffer(engine="llama.cpp", version=version),),
        devices=(CPU, *devices),
        cordoned=cordoned,
        rpc=RpcOffer(host=host, version=version, problem=problem),
    )


def option(*workers: tuple[str, str]) -> Option:
    places = tuple(WorkerPlacement(node=name, device=device, memory_bytes=GIB) for name, device in workers)
    return Option(
        node="head",
        needs=(MemoryNeed(device="cpu", memory_bytes=GIB),),
        workers=places,
        split=(1,) * (len(places) + 1),
    )


ANY, ANY_GPU = (ANY_NODE, "cpu"), (ANY_NODE, "gpu")
HEAD = node("head", host="127.0.0.1")
B, C = node("b"), node("c", *GPUS)


def chosen(wanted: Option, *nodes: Node, before: tuple[Instance, ...] = ()) -> list[list[tuple[str, str]]]:
    options, _ = place_workers([wanted], {one.node: one for one in nodes}, before)
    return [[(place.node, place.device) for place in one.workers] for one in options]


@pytest.mark.parametrize(
    ("wanted", "nodes", "ways"),
    [
        (option(), (HEAD,), [[]]),
        (option(ANY), (HEAD, B, C), [[("b", "cpu")], [("c", "cpu")]]),
        (option(("c", "cpu")), (HEAD, B, C), [[("c", "cpu")]]),
        (option(("head", "cpu")), (HEAD, B), [[("head", "cpu")]]),
        (option(ANY, ANY), (HEAD, B, C), [[("b", "cpu"), ("c", "cpu")], [("c", "cpu"), ("b", "cpu")]]),
        (option(ANY, ANY), (HEAD, B), []),
        (option(("b", "cpu"), ("b", "cpu")), (HEAD, B), [[("b", "cpu"), ("b", "cpu")]]),
        (option(ANY_GPU), (HEAD, B, C), [[("c", "GPU-b")], [("c", "GPU-a")]]),
        (option(("c", "GPU-a")), (HEAD, C), [[("c", "GPU-a")]]),
        (
            option(("c", "gpu"), ("c", "RTX")),
            (HEAD, C),
            [[("c", "GPU-b"), ("c", "GPU-a")], [("c", "GPU-a"), ("c", "GPU-b")]],
        ),
        (option(ANY), (HEAD, node("b", host="127.0.0.1")), []),
        (option(ANY), (HEAD, node("b", version="99")), []),
        (option(ANY), (HEAD, node("b", version=None)), [[("b", "cpu")]]),
        (option(ANY), (HEAD, node("b", problem="None there.")), []),
        (option(ANY), (HEAD, node("b", cordoned=True)), []),
    ],
)
def test_placements(wanted: Option, nodes: tuple[Node, ...], ways: list[list[tuple[str, str]]]) -> None:
    assert chosen(wanted, *nodes) == ways


def test_nodes_of_the_previous_instance_are_preferred() -> None:
    had = instance(
        "m", state=InstanceState.FAILED, reserved=(Reserved(device="cpu", predicted_bytes=1, node="c"),)
    )
    assert chosen(option(ANY), HEAD, B, C, before=(had,)) == [[("c", "cpu")], [("b", "cpu")]]


def test_needs_of_workers_name_their_nodes() -> None:
    (first, _), _ = place_workers([option(ANY)], {"head": HEAD, "b": B, "c": C}, ())
    assert [(need.node, need.device) for need in first.needs] == [(None, "cpu"), ("b", "cpu")]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (node("b", host="127.0.0.1"), "b is not reachable from head; set YARD_RPC_HOST there to its address"),
        (node("b", version="99"), "b has llama.cpp 99, head has 100; both need the same one"),
        (node("b", problem="There is no ggml-rpc-server."), "b: There is no ggml-rpc-server."),
        (node("b", cordoned=True), "b is cordoned"),
    ],
)
def test_why_there_is_no_placement(other: Node, sentence: str) -> None:
    options, problem = place_workers([option(ANY)], {"head": HEAD, "b": other}, ())
    assert options == ()
    assert problem is not None
    assert sentence in problem


def test_a_missing_node_is_named() -> None:
    _, problem = place_workers([option(("z", "cpu"))], {"head": HEAD}, ())
    assert problem is not None
    assert "there is no node z" in problem


def world(*instances: Instance, b_gib: float = 4.0) -> World:
    (placed, *_), _ = place_workers([option(ANY)], {"head": HEAD, "b": B}, ())
    return World(
        now=NOW,
        models={one: spec(one) for one in ("m", "other")},
        instances=instances,
        demand={"m": queued()},
        nodes={
            "head": NodeCapacity(memory_bytes={"cpu": 4 * GIB}),
            "b": NodeCapacity(memory_bytes={"cpu": int(b_gib * GIB)}),
        },
        options={"m": (placed,)},
    )


def test_a_spread_model_starts_where_both_nodes_have_memory() -> None:
    assert [start.option.node for start in make_plan(world()).starts] == ["head"]


def test_a_worker_too_large_for_its_node_keeps_the_model_waiting() -> None:
    plan = make_plan(world(b_gib=0.5))
    assert plan.starts == ()
    assert plan.reasons["m"] == "it needs 1.0 GiB on cpu of b, which has 512.0 MiB for models"


def test_an_instance_on_a_workers_node_is_evicted() -> None:
    other = instance("other", 3.5, device="cpu", node="b", reason=Reason.REQUESTED)
    plan = make_plan(world(other))
    assert [stop.model for stop in plan.stops] == ["other"]


def test_a_spread_model_reserves_memory_on_each_of_its_nodes() -> None:
    reserved = (
        Reserved(device="cpu", predicted_bytes=GIB),
        Reserved(device="cpu", predicted_bytes=int(3.5 * GIB), node="b"),
    )
    other = instance("other", node="head", reserved=reserved)
    assert [stop.model for stop in make_plan(world(other)).stops] == ["other"]
