"""What several nodes say about one model, made into one list of ways."""

import pytest

from schemas.instances import Instance, InstanceState
from schemas.placing import NodeOptions, Option
from services.supervisor.scheduling.asking import merged
from services.supervisor.scheduling.scheduler import elsewhere_first
from tests.unit.planning import instance

A1, A2, B1 = Option(node="a", profile="1"), Option(node="a", profile="2"), Option(node="b", profile="1")
FAILS = NodeOptions(options=(Option(node="c"),), problem="The file is not in the store.")


@pytest.mark.parametrize(
    ("said", "silent", "ways", "problem"),
    [
        ([NodeOptions(options=(A1, A2)), NodeOptions(options=(B1,))], [], (A1, B1, A2), None),
        ([NodeOptions(options=(A1,)), FAILS], [], (A1,), None),
        ([NodeOptions(options=(A1,)), FAILS], ["b"], (A1,), None),
        ([FAILS], [], FAILS.options, FAILS.problem),
        ([FAILS], ["b"], (), "b could run it perhaps, but does not answer now"),
        ([], ["a", "b"], (), "a and b could run it perhaps, but does not answer now"),
        ([], [], (), None),
    ],
)
def test_every_nodes_best_comes_first_and_problems_last(
    said: list[NodeOptions], silent: list[str], ways: tuple[Option, ...], problem: str | None
) -> None:
    assert merged(said, silent) == (ways, problem)


@pytest.mark.parametrize(
    ("instances", "ways"),
    [
        ((), (A1, B1, A2)),
        ((instance("m", state=InstanceState.FAILED, node="a"),), (B1, A1, A2)),
        ((instance("other", state=InstanceState.FAILED, node="a"),), (A1, B1, A2)),
        ((instance("m", state=InstanceState.STOPPED, node="a"),), (A1, B1, A2)),
    ],
)
def test_where_it_failed_it_is_tried_last(instances: tuple[Instance, ...], ways: tuple[Option, ...]) -> None:
    assert elsewhere_first("m", (A1, B1, A2), instances) == ways
