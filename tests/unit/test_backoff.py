"""Back-off after failures in a row: pauses, then an open circuit."""

import pytest

from schemas.instances import Instance, InstanceState
from services.supervisor.node.backoff import (
    OPENS_AFTER,
    PROVEN_S,
    count_failures,
    failure,
    is_outdated,
    is_superseded,
    pause_s,
)
from tests.unit.planning_worlds import NOW, instance


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
        "it fails just after it got ready",
        "it does so again",
        "not ready for long enough",
        "a proven instance fails",
        "that ends a row of failures",
    ],
)
def test_a_proven_instance_ends_the_row_of_failures(before: int, ready_s: float | None, after: int) -> None:
    assert count_failures(before, ready_s) == after


def test_failures_in_a_row_open_the_circuit_with_a_sentence() -> None:
    count, opened = 0, []
    for _ in range(OPENS_AFTER + 1):
        failed = failure(instance("a", ready_at=NOW - 2, failures=count), "It broke.", NOW)
        count = failed.failures
        opened.append(failed.circuit_open)
    assert opened == [False] * (OPENS_AFTER - 1) + [True, True], "its one try later opens it again"
    assert failed.retry_at == NOW + 600
    assert failed.error == (
        "a failed 6 times in a row and is left alone for 10 minutes; "
        "`yard start a` or an edit of the model tries again at once. The last error: It broke."
    )


def test_a_single_failure_keeps_its_error() -> None:
    failed = failure(instance("a", ready_at=None), "It broke.", NOW)
    assert (failed.failures, failed.retry_at, failed.circuit_open, failed.error) == (
        1,
        NOW + 2,
        False,
        "It broke.",
    )


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
def test_a_failure_before_an_edit_is_outdated(
    state: InstanceState, revision: int | None, outdated: bool
) -> None:
    revisions = {} if revision is None else {"a": revision}
    assert is_outdated(instance("a", state=state, retry_at=NOW), revisions) is outdated


@pytest.mark.parametrize(
    ("other", "superseded"),
    [
        (instance("a", state=InstanceState.STARTING, node="m", started_at=NOW), True),
        (instance("a", node="m", started_at=NOW - 2), False),
        (instance("b", state=InstanceState.STARTING, node="m", started_at=NOW), False),
    ],
    ids=["a later start on another node", "a replica that ran before", "another model"],
)
def test_a_failure_before_a_later_start_is_superseded(other: Instance, superseded: bool) -> None:
    failed = instance("a", state=InstanceState.FAILED, age_s=1.0)
    assert is_superseded(failed, (failed, other)) is superseded
    assert not is_superseded(other, (failed, other))
