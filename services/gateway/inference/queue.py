"""Admission to the queue and the place in it: budgets, limits, positions and expected waits."""

import collections
import math
import time
from collections.abc import Iterable

from modelyard.bus.records import BucketCache
from schemas.base import Record
from schemas.budgets import BudgetAction, BudgetLevel, BudgetState
from schemas.errors import BudgetExceeded, QueueFull
from schemas.models import ModelSpec
from schemas.requests import ANYONE, Lane
from services.gateway.inference.answer import AnswerReceiver

_NEWEST_WEIGHT = 0.2
_DEFAULT_S = 2.0
"""The assumed duration of the first answer of a model."""
BudgetScope = tuple[str | None, str | None]
"""A key and a model; None: any."""


class QueuePlace(Record):
    """The place of a request in the queue of its model."""

    position: int
    """1 is the next to be taken."""
    expected_wait_s: float
    reason: str | None = None
    """Why the whole queue waits, as the end of a sentence: its model waits for something."""


class AnswerDurations:
    """The running mean of the durations of each model's answers."""

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}

    def add(self, model: str, seconds: float) -> None:
        before = self._mean_s.get(model, seconds)
        self._mean_s[model] = before + _NEWEST_WEIGHT * (seconds - before)

    def of(self, model: str) -> float:
        return self._mean_s.get(model, _DEFAULT_S)


def queue_position(
    own: tuple[Lane, str | None], before: int, others: dict[tuple[Lane, str | None], int]
) -> int:
    """The position of a request with `before` requests ahead in its own queue, where queues take turns.

    A queue of another key delays it by at most as many requests as are ahead in its own, and one.
    """
    lane, _ = own
    ahead = before
    for (other_lane, key), count in others.items():
        if (other_lane, key) == own:
            continue
        if other_lane is lane:
            ahead += min(count, before + 1)
        elif other_lane is Lane.INTERACTIVE:
            ahead += count
    return ahead + 1


def queue_place(
    answer: AnswerReceiver,
    queued: Iterable[AnswerReceiver],
    slots: int,
    mean_s: float,
    reason: str | None = None,
) -> QueuePlace:
    """The place of `answer` among all that are queued for its model."""
    queues: collections.Counter[tuple[Lane, str | None]] = collections.Counter()
    own, before = (answer.request.lane, answer.request.key), 0
    for other in queued:
        if other is answer:
            continue
        queue = (other.request.lane, other.request.key)
        queues[queue] += 1
        before += queue == own and other.queued_at < answer.queued_at
    position = queue_position(own, before, dict(queues))
    expected_wait_s = round(math.ceil(position / max(1, slots)) * mean_s, 1)
    return QueuePlace(position=position, expected_wait_s=expected_wait_s, reason=reason)


def check_queue_limit(spec: ModelSpec, queued: int, expected_wait_s: float) -> None:
    """QueueFull if as many requests are queued as the spec of the model allows."""
    if queued >= spec.queue_max:
        raise QueueFull(
            f"{queued} requests wait for {spec.name}, which is all that may; try again later.",
            retry_after_s=max(1, math.ceil(expected_wait_s)),
        )


class BudgetAdmission:
    """Refuses requests whose budget is used up. The monitor sums usage up; this reads its totals."""

    def __init__(self, spending: BucketCache[BudgetState]) -> None:
        self._exhausted: dict[BudgetScope, BudgetState] = {}
        self._states = spending.values
        spending.listen(lambda _name, _state: self._index())
        self._index()

    def _index(self) -> None:
        refusing = (state for state in self._states.values() if state.action is BudgetAction.REFUSE)
        exhausted = [state for state in refusing if state.level is BudgetLevel.EXHAUSTED]
        # Of several with one scope, the one that lasts longest decides when to retry.
        exhausted.sort(key=lambda state: state.ends_at)
        self._exhausted = {(state.key, state.model): state for state in exhausted}

    def check(self, key: str | None, model: str) -> None:
        """BudgetExceeded if a budget of this key, this model or everything is used up."""
        if not self._exhausted:
            return
        owner = key or ANYONE
        for scope in ((None, None), (owner, None), (None, model), (owner, model)):
            state = self._exhausted.get(scope)
            if state is not None and (left_s := state.ends_at - time.time()) > 0:
                raise _exceeded(state, left_s)


def _exceeded(state: BudgetState, left_s: float) -> BudgetExceeded:
    named = [f"{word} {name}" for word, name in (("of key", state.key), ("for", state.model)) if name]
    of = " ".join(named) or "of the yard"
    ends = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.ends_at))
    return BudgetExceeded(
        f"The budget {state.budget} {of} is used up: {state.used} of {state.limit} {state.unit} this "
        f"{state.period}. It starts again at {ends}.",
        retry_after_s=max(1, round(left_s)),
    )
