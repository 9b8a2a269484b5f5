"""Which requests a budget refuses. The monitor adds up; here is only looked up."""

import time

from modelyard.bus.records import BucketCache
from schemas.budgets import Action, BudgetLevel, BudgetState
from schemas.errors import BudgetExceeded
from schemas.requests import ANYONE

Scope = tuple[str | None, str | None]
"""A key and a model; None: any."""


class Admission:
    """Budgets that are used up, by what they are of."""

    def __init__(self, spending: BucketCache[BudgetState]) -> None:
        self._refusing: dict[Scope, BudgetState] = {}
        self._states = spending.values
        spending.listen(self._on_change)
        self._sort()

    def _on_change(self, _name: str, _state: BudgetState | None) -> None:
        self._sort()

    def _sort(self) -> None:
        used_up = [
            state
            for state in self._states.values()
            if state.level is BudgetLevel.EXHAUSTED and state.action is Action.REFUSE
        ]
        # Of several with one scope, the one that lasts longest says when to come again.
        self._refusing = {
            (state.key, state.model): state for state in sorted(used_up, key=lambda state: state.ends_at)
        }

    def check(self, key: str | None, model: str) -> None:
        """BudgetExceeded if a budget of this key, this model or everything is used up."""
        if not self._refusing:
            return
        whose = key or ANYONE
        for scope in ((None, None), (whose, None), (None, model), (whose, model)):
            state = self._refusing.get(scope)
            if state is not None and (left_s := state.ends_at - time.time()) > 0:
                raise _exceeded(state, left_s)


def _exceeded(state: BudgetState, left_s: float) -> BudgetExceeded:
    named = [f"{word} {name}" for word, name in (("of key", state.key), ("for", state.model)) if name]
    of = " ".join(named) or "of the yard"
    ends = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.ends_at))
    return BudgetExceeded(
        f"The budget {state.budget} {of} is used up: {state.used} of {state.limit} {state.unit} this "
        f"{state.period}. It begins anew at {ends}.",
        retry_after_s=max(1, round(left_s)),
    )
