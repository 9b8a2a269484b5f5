"""Whose turn it is: pure decisions about the queues of one model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schemas.requests import Lane


@dataclass(frozen=True, order=True)
class QueueName:
    """One queue of a model: the requests of one key in one lane."""

    lane: Lane
    key: str


@dataclass
class Queue:
    """What a runner knows of a queue."""

    name: QueueName
    filled: bool = False
    """Whether something may wait in it."""
    waiting: int = 0
    """How many, as far as we heard: exact whenever one is taken."""
    served_at: float = 0.0
    """Monotonic seconds when a request was taken from it last."""


def batch_slots(slots: int) -> int:
    """How many slots `batch` may take: one stays for somebody who waits for his answer."""
    return max(1, slots - 1)


def whose_turn(queues: Iterable[Queue], running: Mapping[QueueName, int], slots: int) -> Queue | None:
    """The queue to serve next: `interactive` first, then who has least at work, then who waited longest."""
    at_batch = sum(count for name, count in running.items() if name.lane is Lane.BATCH)
    open_lanes = {Lane.INTERACTIVE} if at_batch >= batch_slots(slots) else set(Lane)
    waiting = [queue for queue in queues if queue.filled and queue.name.lane in open_lanes]
    return min(
        waiting,
        key=lambda queue: (
            queue.name.lane is Lane.BATCH,
            running.get(queue.name, 0),
            queue.served_at,
            queue.name.key,
        ),
        default=None,
    )
