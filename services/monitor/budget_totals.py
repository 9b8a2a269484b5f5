"""Running totals of budgets: loaded from stored sums, incremented as usage is counted, sampled as metrics."""

from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from schemas.budgets import Budget, BudgetLevel, BudgetState
from schemas.metrics import Sample
from schemas.prices import spell_money
from schemas.usage import UsageUnit
from services.monitor.calendar import period_of
from services.monitor.price_book import EXACT, from_amount
from services.monitor.usage.rollups import quarter_of
from services.monitor.usage.store import UsageIncrement, UsageStore

_SELECT_USED = """
SELECT SUM(requests), SUM(prompt_tokens + completion_tokens), SUM(cost_whole), SUM(cost_pico)
FROM quarters JOIN series USING (series)
WHERE quarter >= ? AND quarter < ? AND (? IS NULL OR model = ?) AND (? IS NULL OR key = ?)
"""


@dataclass
class BudgetTotal:
    """The usage of one budget in one period."""

    budget: Budget
    tz: ZoneInfo
    starts_at: float
    ends_at: float
    used: Decimal = Decimal(0)
    serial: int = -1
    """Increments of transactions up to this one are included."""

    @classmethod
    def start(cls, budget: Budget, tz: ZoneInfo, now: float) -> "BudgetTotal":
        return cls(budget, tz, *period_of(now, budget.period, tz))

    def add(self, increment: UsageIncrement) -> None:
        budget = self.budget
        applies = (
            increment.serial > self.serial
            and budget.key in (None, increment.key)
            and budget.model in (None, increment.model)
        )
        if applies and self.starts_at <= increment.at < self.ends_at:
            self.used = EXACT.add(self.used, amount(budget.unit, increment))

    def state(self) -> BudgetState:
        budget = self.budget
        ratio = EXACT.divide(self.used, budget.limit)
        level = BudgetLevel.WARNED if ratio >= budget.warn_at else BudgetLevel.WITHIN
        level = BudgetLevel.EXHAUSTED if ratio >= 1 else level
        return BudgetState(
            budget=budget.budget,
            level=level,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            used=spell_money(self.used),
            limit=spell_money(budget.limit),
            ratio=round(float(ratio), 6),
            unit=budget.unit,
            period=budget.period,
            action=budget.action,
            tz=self.tz.key,
            key=budget.key,
            model=budget.model,
        )


def load_used(store: UsageStore, budget: Budget, starts_at: float, ends_at: float) -> tuple[int, Decimal]:
    """The last included transaction and the amount used. Periods begin on quarters of an hour."""
    bounds = (quarter_of(starts_at), quarter_of(ends_at))
    filters = (budget.model, budget.model, budget.key, budget.key)
    requests, tokens, whole, pico = store.db.execute(_SELECT_USED, (*bounds, *filters)).fetchone()
    cost = (whole or 0, pico or 0)
    used = UsageIncrement(store.serial, starts_at, "", "", requests or 0, tokens or 0, cost)
    return store.serial, amount(budget.unit, used)


def amount(unit: UsageUnit, increment: UsageIncrement) -> Decimal:
    match unit:
        case UsageUnit.MONEY:
            return from_amount(*increment.cost)
        case UsageUnit.TOKENS:
            return Decimal(increment.tokens)
        case UsageUnit.REQUESTS:
            return Decimal(increment.requests)


def level_crossed(before: BudgetState | None, now: BudgetState) -> bool:
    """Whether a level is worth an event: a new period or budget that is within its limit is not."""
    same = before is not None and before.starts_at == now.starts_at and before.level is now.level
    was_within = before is None or before.level is BudgetLevel.WITHIN
    return not same and not (was_within and now.level is BudgetLevel.WITHIN)


def budget_samples(state: BudgetState) -> list[Sample]:
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
