"""What was used of a budget before we began to add it up ourselves."""

from decimal import Decimal

from schemas.budgets import Budget
from services.monitor.budgets.totals import amount
from services.monitor.usage.levels import quarter_of
from services.monitor.usage.store import Counted, UsageStore

_USED = """
SELECT SUM(requests), SUM(prompt_tokens + completion_tokens), SUM(cost_whole), SUM(cost_pico)
FROM quarters JOIN series USING (series)
WHERE quarter >= ? AND quarter < ? AND (? IS NULL OR model = ?) AND (? IS NULL OR key = ?)
"""


def load_used(store: UsageStore, budget: Budget, starts_at: float, ends_at: float) -> tuple[int, Decimal]:
    """The last transaction that is in it, and how much. Periods begin on quarters of an hour."""
    bounds = (quarter_of(starts_at), quarter_of(ends_at))
    chosen = (budget.model, budget.model, budget.key, budget.key)
    requests, tokens, whole, pico = store.db.execute(_USED, (*bounds, *chosen)).fetchone()
    found = Counted(store.serial, starts_at, "", "", requests or 0, tokens or 0, (whole or 0, pico or 0))
    return store.serial, amount(budget.unit, found)
