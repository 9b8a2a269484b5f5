"""Budgets: how much may be used in a day, a week or a month, and how much was."""

from decimal import Decimal
from enum import StrEnum

from schemas.base import Record, check_token
from schemas.usage import Period, UsageUnit


class BudgetAction(StrEnum):
    """The action when a budget is exhausted."""

    WARN = "warn"
    """An event is published; requests continue."""
    REFUSE = "refuse"
    """New requests are refused with 429 until the period ends."""


class Budget(Record):
    """A spending or usage limit. `key` and `model` narrow its scope; both None: everything."""

    budget: str
    """Its name."""
    limit: Decimal
    """How much may be used in a period."""
    unit: UsageUnit = UsageUnit.MONEY
    """The unit of the limit."""
    period: Period = Period.MONTH
    key: str | None = None
    """Id of an API key; `anyone`: requests without one."""
    model: str | None = None
    action: BudgetAction = BudgetAction.REFUSE
    warn_at: Decimal = Decimal("0.8")
    """At this share of the limit an event warns."""
    tz: str | None = None
    """The time zone of its periods; None: the setting YARD_TIME_ZONE."""

    def __post_init__(self) -> None:
        check_token(self.budget)
        if not self.limit.is_finite() or not 0 < self.limit <= 10**15:
            raise ValueError("limit must be more than 0 and at most 10^15")
        if not self.warn_at.is_finite() or not 0 < self.warn_at <= 1:
            raise ValueError("warn_at must be a share, more than 0 and at most 1")


class BudgetLevel(StrEnum):
    """How far a budget is used."""

    WITHIN = "within"
    WARNED = "warned"
    """More than its `warn_at`."""
    EXHAUSTED = "exhausted"
    """All of it, or more."""


class BudgetState(Record):
    """The state of a budget in its present period."""

    budget: str
    level: BudgetLevel
    starts_at: float
    ends_at: float
    used: str
    limit: str
    ratio: float
    """Used, as a share of the limit."""
    unit: UsageUnit
    period: Period
    action: BudgetAction
    tz: str
    key: str | None = None
    model: str | None = None


class PutBudget(Budget):
    """A budget, new or in place of the one of its name."""

    revision: int | None = None
    """Compare-and-set: the revision that the caller saw; 0: none may exist yet."""


class BudgetRef(Record):
    """Which budget."""

    budget: str


class BudgetStored(Record):
    """The budget is stored, or taken away."""

    budget: str
    revision: int


class ListBudgets(Record):
    """All of them."""


class StoredBudget(Record):
    """A budget as stored, with its state."""

    budget: Budget
    revision: int
    state: BudgetState | None = None


class BudgetList(Record):
    """Budgets by name."""

    budgets: tuple[StoredBudget, ...]
    currency: str
