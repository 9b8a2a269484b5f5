"""Which queue of a model is served next. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schemas.requests import Lane


@dataclass(frozen=True, order=True)
class QueueName:
    """One queue of a model: the requests of one key in one lane."""

    lane: Lane
    key: str


@dataclass
class QueueState:
    """A queue as the runner has last seen it."""

    name: QueueName
    filled: bool = False
    """Whether it may have requests."""
    waiting: int = 0
    """The number of requests: exact whenever one is taken, an estimate between."""
    served_at: float = 0.0
    """Monotonic seconds of the last request taken from it."""


def max_batch_slots(slots: int) -> int:
    """The slots that the lane `batch` may use: one stays free for interactive requests."""
    return max(1, slots - 1)


def next_queue(
    queues: Iterable[QueueState], running: Mapping[QueueName, int], slots: int
) -> QueueState | None:
    """The queue to serve: `interactive` first, then the fewest running, then the least recently served."""
    running_batch = sum(count for name, count in running.items() if name.lane is Lane.BATCH)
    lanes = {Lane.INTERACTIVE} if running_batch >= max_batch_slots(slots) else set(Lane)
    return min(
        (queue for queue in queues if queue.filled and queue.name.lane in lanes),
        key=lambda queue: (
            queue.name.lane is Lane.BATCH,
            running.get(queue.name, 0),
            queue.served_at,
            queue.name.key,
        ),
        default=None,
    )
