"""How much of each budget is used, added up as requests are counted. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from schemas.budgets import Budget, BudgetLevel, BudgetState
from schemas.prices import spell_money
from schemas.usage import UsageUnit
from services.monitor.calendar import period_of
from services.monitor.costs.money import EXACT, from_amount
from services.monitor.usage.store import Counted


@dataclass
class Total:
    """One budget in one period."""

    budget: Budget
    tz: ZoneInfo
    starts_at: float
    ends_at: float
    used: Decimal = Decimal(0)
    serial: int = -1
    """What was counted up to this transaction is in it."""

    def add(self, counted: Counted) -> None:
        """Take what was counted, if it is of this budget and period."""
        budget = self.budget
        mine = (
            counted.serial > self.serial
            and budget.key in (None, counted.key)
            and budget.model in (None, counted.model)
        )
        if mine and self.starts_at <= counted.at < self.ends_at:
            self.used = EXACT.add(self.used, amount(budget.unit, counted))

    def state(self) -> BudgetState:
        """As it is told to others."""
        budget = self.budget
        ratio = EXACT.divide(self.used, budget.limit)
        return BudgetState(
            budget=budget.budget,
            level=level(ratio, budget.warn_at),
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


def begin(budget: Budget, tz: ZoneInfo, now: float) -> Total:
    """The period that is now, with nothing used."""
    return Total(budget, tz, *period_of(now, budget.period, tz))


def amount(unit: UsageUnit, counted: Counted) -> Decimal:
    """How much of a budget in this unit was used."""
    match unit:
        case UsageUnit.MONEY:
            return from_amount(*counted.cost)
        case UsageUnit.TOKENS:
            return Decimal(counted.tokens)
        case UsageUnit.REQUESTS:
            return Decimal(counted.requests)


def level(ratio: Decimal, warn_at: Decimal) -> BudgetLevel:
    """What a share of the limit means."""
    if ratio >= 1:
        return BudgetLevel.EXHAUSTED
    return BudgetLevel.WARNED if ratio >= warn_at else BudgetLevel.WITHIN


def crossed(before: BudgetState | None, now: BudgetState) -> bool:
    """Whether a level was reached that is worth telling: not that a new budget is within its limit."""
    same = before is not None and before.starts_at == now.starts_at and before.level is now.level
    begins = before is None or before.level is BudgetLevel.WITHIN
    return not same and not (begins and now.level is BudgetLevel.WITHIN)


def add_all(totals: Iterable[Total], counted: Iterable[Counted]) -> None:
    """Every counted thing to every total."""
    listed = list(counted)
    for total in totals:
        for each in listed:
            total.add(each)
