"""What failures in a row cost a model: pauses, then an open circuit."""

import pytest

from schemas.instances import InstanceState
from services.supervisor.agent.amends import is_outdated
from services.supervisor.backoff import OPENS_AFTER, PROVEN_S, failure, failures, pause_s
from tests.unit.planning import NOW, instance


@pytest.mark.parametrize(
    ("count", "pause"), [(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (5, 600.0), (50, 600.0)]
)
def test_pauses_double_until_the_circuit_opens(count: int, pause: float) -> None:
    assert pause_s(count) == pause


@pytest.mark.parametrize(
    ("before", "ready_s", "after"),
    [
        (0, None, 1),
        (3, None, 4),
        (0, 2.0, 1),
        (3, 2.0, 4),
        (3, PROVEN_S - 0.1, 4),
        (0, PROVEN_S, 0),
        (7, PROVEN_S, 0),
    ],
    ids=[
        "a first start fails",
        "one more start fails",
        "it dies just after it got ready",
        "it does so again",
        "not long enough to prove itself",
        "one that had served for long dies",
        "that ends a row of failures",
    ],
)
def test_failures_are_counted_until_one_proves_itself(before: int, ready_s: float | None, after: int) -> None:
    assert failures(before, ready_s) == after


def test_a_model_that_dies_again_and_again_opens_its_circuit_with_a_sentence() -> None:
    count, opened = 0, []
    for _ in range(OPENS_AFTER + 1):
        died = failure(instance("a", ready_at=NOW - 2, failures=count), "It broke.", NOW)
        count = died.failures
        opened.append(died.circuit_open)
    assert opened == [False] * (OPENS_AFTER - 1) + [True, True], "its one try later opens it again"
    assert died.retry_at == NOW + 600
    assert died.error == (
        "a failed 6 times in a row and is left alone for 10 minutes; "
        "`yard start a` or an edit of the model tries again at once. The last error: It broke."
    )


def test_a_single_failure_is_told_as_it_is() -> None:
    died = failure(instance("a", ready_at=None), "It broke.", NOW)
    assert (died.failures, died.retry_at, died.circuit_open, died.error) == (1, NOW + 2, False, "It broke.")


@pytest.mark.parametrize(
    ("state", "revision", "outdated"),
    [
        (InstanceState.FAILED, 2, True),
        (InstanceState.FAILED, 1, False),
        (InstanceState.READY, 2, False),
        (InstanceState.FAILED, None, False),
    ],
    ids=["edited", "not edited", "it runs", "deleted"],
)
def test_an_edit_gives_a_failed_model_another_chance(
    state: InstanceState, revision: int | None, outdated: bool
) -> None:
    revisions = {} if revision is None else {"a": revision}
    assert is_outdated(instance("a", state=state, retry_at=NOW), revisions) is outdated
