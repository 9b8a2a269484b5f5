"""Who waits for what: caps, places in the queue, and how long it may take."""

import collections
import math
from collections.abc import Iterable

from schemas.base import Record
from schemas.errors import QueueFull
from schemas.models import ModelSpec
from schemas.requests import Lane
from services.gateway.inference.answer import Answer

_WEIGHT = 0.2
"""Of the newest answer in the running mean of durations."""
_UNKNOWN_S = 2.0
"""How long an answer of a model takes of which we know nothing yet."""


class Place(Record):
    """Where a request stands."""

    position: int
    """1 is the next to be taken."""
    expected_wait_s: float
    reason: str | None = None
    """Why nobody takes it at all yet, as the end of a sentence: its model waits for something."""


class Durations:
    """How long a model's answers take, as a running mean."""

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}

    def note(self, model: str, seconds: float) -> None:
        before = self._mean_s.get(model, seconds)
        self._mean_s[model] = before + _WEIGHT * (seconds - before)

    def of(self, model: str) -> float:
        return self._mean_s.get(model, _UNKNOWN_S)


def position(mine: tuple[Lane, str | None], before: int, others: dict[tuple[Lane, str | None], int]) -> int:
    """The place of a request that has `before` of its own queue ahead of it, with `others` served in turns.

    A queue of another key delays it by no more requests than are ahead in its own, and one.
    """
    lane, _ = mine
    ahead = before
    for (their_lane, key), count in others.items():
        if (their_lane, key) == mine:
            continue
        if their_lane is lane:
            ahead += min(count, before + 1)
        elif their_lane is Lane.INTERACTIVE:
            ahead += count
    return ahead + 1


def place(
    answer: Answer, waiting: Iterable[Answer], slots: int, mean_s: float, reason: str | None = None
) -> Place:
    """The place of `answer` among all that wait for its model."""
    queues: collections.Counter[tuple[Lane, str | None]] = collections.Counter()
    mine, before = (answer.ask.lane, answer.ask.key), 0
    for other in waiting:
        if other is answer:
            continue
        queue = (other.ask.lane, other.ask.key)
        queues[queue] += 1
        before += queue == mine and other.queued_at < answer.queued_at
    at = position(mine, before, dict(queues))
    return Place(position=at, expected_wait_s=round(math.ceil(at / max(1, slots)) * mean_s, 1), reason=reason)


def check_room(spec: ModelSpec, waiting: int, expected_wait_s: float) -> None:
    """QueueFull if a model's queue has as many as its owner allows."""
    if waiting >= spec.queue_max:
        raise QueueFull(
            f"{waiting} requests wait for {spec.name}, which is all that may; try again later.",
            retry_after_s=max(1, math.ceil(expected_wait_s)),
        )
