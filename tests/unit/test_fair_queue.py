"""Which queue is served next."""

from schemas.requests import Lane
from services.supervisor.runner.queues import QueueName, QueueState, max_batch_slots, next_queue


def queue(
    key: str, lane: Lane = Lane.INTERACTIVE, *, filled: bool = True, served_at: float = 0.0
) -> QueueState:
    return QueueState(QueueName(lane, key), filled=filled, served_at=served_at)


def test_no_queue_is_served_without_requests() -> None:
    assert next_queue([queue("a", filled=False)], {}, 4) is None
    assert next_queue([], {}, 4) is None


def test_the_fewest_running_is_next_and_then_the_least_recently_served() -> None:
    busy, idle = queue("busy", served_at=1.0), queue("idle", served_at=9.0)
    assert next_queue([busy, idle], {busy.name: 2, idle.name: 1}, 4) is idle
    assert next_queue([busy, idle], {busy.name: 1, idle.name: 1}, 4) is busy


def test_batch_runs_after_interactive_and_never_takes_the_last_slot() -> None:
    batch, person = queue("a", Lane.BATCH), queue("b")
    assert next_queue([batch, person], {person.name: 3}, 4) is person
    assert next_queue([batch], {}, 4) is batch
    assert next_queue([batch], {batch.name: 3}, 4) is None
    assert next_queue([batch], {}, 1) is batch
    assert max_batch_slots(1) == 1


def test_a_single_request_does_not_wait_behind_a_hundred() -> None:
    left = {"many": 100, "one": 1}
    queues = [queue("many"), queue("one")]
    served = []
    for turn in range(4):
        chosen = next_queue(queues, {}, 1)
        assert chosen is not None
        served.append(chosen.name.key)
        chosen.served_at = turn + 1.0
        left[chosen.name.key] -= 1
        chosen.filled = left[chosen.name.key] > 0
    assert "one" in served[:2]
    assert served.count("many") == 3
