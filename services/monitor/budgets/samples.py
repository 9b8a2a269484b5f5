"""Budgets as numbers that alert rules and Prometheus read."""

from collections.abc import Iterable

from schemas.budgets import BudgetState
from schemas.metrics import Sample


def budget_samples(states: Iterable[BudgetState]) -> list[Sample]:
    """Three samples a budget; the names are part of the contract."""
    return [sample for state in states for sample in _samples(state)]


def _samples(state: BudgetState) -> list[Sample]:
    labels = {
        "budget": state.budget,
        "key": state.key or "",
        "model": state.model or "",
        "unit": state.unit.value,
        "period": state.period.value,
    }
    values = {
        "yard_budget_used_ratio": state.ratio,
        "yard_budget_used": float(state.used),
        "yard_budget_limit": float(state.limit),
    }
    return [Sample(name=name, value=value, labels=labels) for name, value in values.items()]
