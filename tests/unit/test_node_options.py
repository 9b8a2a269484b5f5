"""The options of several nodes for one model, merged."""

import pytest

from schemas.instances import Instance, InstanceState
from schemas.placement import NodeOptions, Option
from services.supervisor.scheduler.node_client import merge_options
from services.supervisor.scheduler.snapshot import failed_nodes_last
from tests.unit.planning_worlds import instance

A1, A2, B1 = Option(node="a", profile="1"), Option(node="a", profile="2"), Option(node="b", profile="1")
FAILS = NodeOptions(options=(Option(node="c"),), problem="The file is not in the store.")


@pytest.mark.parametrize(
    ("answers", "unresponsive", "options", "problem"),
    [
        ([NodeOptions(options=(A1, A2)), NodeOptions(options=(B1,))], [], (A1, B1, A2), None),
        ([NodeOptions(options=(A1,)), FAILS], [], (A1,), None),
        ([NodeOptions(options=(A1,)), FAILS], ["b"], (A1,), None),
        ([FAILS], [], FAILS.options, FAILS.problem),
        ([FAILS], ["b"], (), "b might be able to run it, but does not respond now"),
        ([], ["a", "b"], (), "a and b might be able to run it, but does not respond now"),
        ([], [], (), None),
    ],
)
def test_the_best_of_every_node_comes_first_and_problems_last(
    answers: list[NodeOptions], unresponsive: list[str], options: tuple[Option, ...], problem: str | None
) -> None:
    assert merge_options(answers, unresponsive) == (options, problem)


@pytest.mark.parametrize(
    ("instances", "options"),
    [
        ((), (A1, B1, A2)),
        ((instance("m", state=InstanceState.FAILED, node="a"),), (B1, A1, A2)),
        ((instance("other", state=InstanceState.FAILED, node="a"),), (A1, B1, A2)),
        ((instance("m", state=InstanceState.STOPPED, node="a"),), (A1, B1, A2)),
    ],
)
def test_nodes_on_which_it_failed_come_last(
    instances: tuple[Instance, ...], options: tuple[Option, ...]
) -> None:
    assert failed_nodes_last("m", (A1, B1, A2), instances) == options
