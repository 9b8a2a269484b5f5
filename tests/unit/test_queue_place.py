"""Places in the queue, its limit, and the durations that waits are estimated from."""

import pytest

from schemas.errors import QueueFull
from schemas.models import ModelSpec
from schemas.requests import Lane
from services.gateway.inference.queue import AnswerDurations, check_queue_limit, queue_position

INTERACTIVE, BATCH = Lane.INTERACTIVE, Lane.BATCH


@pytest.mark.parametrize(
    ("own", "before", "others", "expected"),
    [
        ((INTERACTIVE, "a"), 0, {}, 1),
        ((INTERACTIVE, "a"), 2, {}, 3),
        ((INTERACTIVE, "a"), 0, {(INTERACTIVE, "b"): 100}, 2),
        ((INTERACTIVE, "a"), 3, {(INTERACTIVE, "b"): 100, (INTERACTIVE, "c"): 1}, 9),
        ((INTERACTIVE, "a"), 0, {(BATCH, "b"): 50}, 1),
        ((BATCH, "a"), 0, {(INTERACTIVE, "b"): 5, (BATCH, "b"): 3}, 7),
        ((INTERACTIVE, "a"), 1, {(INTERACTIVE, "a"): 4}, 2),
    ],
)
def test_a_position_counts_the_requests_that_are_served_before(
    own: tuple[Lane, str], before: int, others: dict[tuple[Lane, str | None], int], expected: int
) -> None:
    assert queue_position(own, before, others) == expected


def test_a_full_queue_has_a_retry_after() -> None:
    spec = ModelSpec(name="m", path="m.gguf", queue_max=2)
    check_queue_limit(spec, 1, 0.0)
    with pytest.raises(QueueFull, match="2 requests wait for m") as refused:
        check_queue_limit(spec, 2, 7.2)
    assert refused.value.retry_after_s == 8


def test_durations_are_a_running_mean() -> None:
    durations = AnswerDurations()
    assert durations.of("m") == 2.0
    durations.add("m", 10.0)
    assert durations.of("m") == 10.0
    durations.add("m", 0.0)
    assert durations.of("m") == 8.0
