"""Budgets: kept, added up, and told: to the gateway by a bucket, to everybody by events."""

import asyncio
import time
from zoneinfo import ZoneInfo

import msgspec

from modelyard.bus import audit, logs
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from schemas import buckets, subjects
from schemas.base import check_token
from schemas.budgets import (
    Budget,
    BudgetList,
    BudgetRef,
    BudgetState,
    BudgetStored,
    ListBudgets,
    PutBudget,
    StoredBudget,
)
from schemas.errors import BadRequest, Conflict, NotFound, YardError
from schemas.metrics import Sample
from services.monitor.budgets.loading import load_used
from services.monitor.budgets.samples import budget_samples
from services.monitor.budgets.totals import Total, add_all, begin, crossed
from services.monitor.calendar import zone
from services.monitor.usage.keeper import UsageKeeper
from services.monitor.usage.store import Counted

log = logs.get(__name__)

LOOK_S = 0.2
"""How often totals are told, and how late the end of a period is noticed."""
REST_S = 1.0
"""Without a budget there is nothing to tell: a look costs little, but five a second add up."""


class Budgets:
    """Every budget with its running total. Opened once, then `run`."""

    def __init__(self, bus: Bus, usage: UsageKeeper, told: dict[str, BudgetState]) -> None:
        self._bus = bus
        self._usage = usage
        self._specs = BucketStore(bus, buckets.BUDGETS)
        self._states = BucketStore(bus, buckets.SPENDING)
        self._budgets: dict[str, tuple[Budget, int]] = {}
        self._totals: dict[str, Total] = {}
        self._told = told
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, bus: Bus, tasks: Tasks, usage: UsageKeeper) -> "Budgets":
        """With the totals of all that was counted so far."""
        specs = await BucketCache.start(bus, buckets.BUDGETS, tasks)
        told = await BucketCache.start(bus, buckets.SPENDING, tasks)
        budgets = cls(bus, usage, dict(told.values))
        for name, budget in specs.values.items():
            await budgets._keep(budget, specs.revisions[name])
        usage.listen(budgets._on_counted)
        usage.listen_recounted(budgets._reload)
        return budgets

    def samples(self) -> list[Sample]:
        """The totals as numbers for alert rules and Prometheus."""
        return budget_samples(total.state() for total in self._totals.values())

    async def run(self) -> None:
        """Tell what changed, and begin new periods, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S if self._totals else REST_S)
            try:
                async with self._lock:
                    await self._begin_periods()
                    await self._tell_all()
            except YardError as error:
                # Told as soon as the broker is there again; nothing of it is lost.
                log.warning("budgets_not_told", reason=error.message)
            except Exception:
                log.exception("budgets_failed")

    async def put(self, asked: PutBudget) -> BudgetStored:
        """Keep a budget; when this is answered, its total is known to the gateway."""
        budget = self._checked(asked)
        async with self._lock:
            before, revision = await self._specs.head(budget.budget)
            known = self._budgets.get(budget.budget)
            _check_revision(budget.budget, asked.revision, known[1] if known else 0)
            stored = await self._specs.put(budget.budget, budget, last=revision)
            audit.changed(f"budget {budget.budget}", before, budget)
            await self._keep(budget, stored)
            await self._tell_all()
        return BudgetStored(budget=budget.budget, revision=stored)

    def _checked(self, asked: PutBudget) -> Budget:
        fields = {name: getattr(asked, name) for name in Budget.__struct_fields__}
        budget = Budget(**fields)
        if budget.tz is not None:
            zone(budget.tz)
        if budget.key == "":
            raise BadRequest(
                "`key` is the id of an API key, or `anyone` for requests without one.", param="key"
            )
        return (
            budget
            if budget.model is None
            else msgspec.structs.replace(budget, model=self._usage.name_of(budget.model))
        )

    async def get(self, ref: BudgetRef) -> StoredBudget:
        """One of them."""
        return self._stored(self._known(ref))

    async def all(self, _wanted: ListBudgets) -> BudgetList:
        """All of them."""
        return BudgetList(
            budgets=tuple(self._stored(name) for name in sorted(self._budgets)), currency=self._usage.currency
        )

    async def delete(self, ref: BudgetRef) -> BudgetStored:
        """Take it away; who was refused by it is let in."""
        async with self._lock:
            name = self._known(ref)
            stored = await self._specs.delete(name)
            before, _ = self._budgets.pop(name)
            audit.changed(f"budget {name}", before, None)
            self._totals.pop(name)
            self._told.pop(name, None)
            await self._states.delete(name)
        return BudgetStored(budget=name, revision=stored)

    def _known(self, ref: BudgetRef) -> str:
        if ref.budget not in self._budgets:
            raise NotFound(f"There is no budget {ref.budget!r}.", param="budget")
        return ref.budget

    def _stored(self, name: str) -> StoredBudget:
        budget, revision = self._budgets[name]
        return StoredBudget(budget=budget, revision=revision, state=self._totals[name].state())

    async def _keep(self, budget: Budget, revision: int) -> None:
        self._budgets[budget.budget] = (budget, revision)
        self._totals[budget.budget] = await self._loaded(budget)

    async def _loaded(self, budget: Budget) -> Total:
        tz: ZoneInfo = self._usage.tz if budget.tz is None else zone(budget.tz)
        total = begin(budget, tz, time.time())
        total.serial, total.used = await self._usage.write(load_used, budget, total.starts_at, total.ends_at)
        return total

    async def _on_counted(self, counted: list[Counted]) -> None:
        add_all(self._totals.values(), counted)

    async def _reload(self) -> None:
        """The past was counted anew."""
        async with self._lock:
            for name, (budget, _) in tuple(self._budgets.items()):
                self._totals[name] = await self._loaded(budget)

    async def _begin_periods(self) -> None:
        now = time.time()
        for name, total in tuple(self._totals.items()):
            if not total.starts_at <= now < total.ends_at:
                self._totals[name] = await self._loaded(total.budget)

    async def _tell_all(self) -> None:
        for name, total in tuple(self._totals.items()):
            state, before = total.state(), self._told.get(name)
            if state == before:
                continue
            if crossed(before, state):
                await self._announce(state)
            await self._states.put(name, state)
            self._told[name] = state

    async def _announce(self, state: BudgetState) -> None:
        log.info("budget_crossed", budget=state.budget, level=state.level, ratio=state.ratio)
        await self._bus.emit(
            subjects.BUDGET_CROSSED,
            state,
            event_id=f"{state.budget}.{state.starts_at:.0f}.{state.limit}.{state.level}",
            budget=check_token(state.budget),
            level=state.level,
        )


def _check_revision(name: str, seen: int | None, there: int) -> None:
    if seen is not None and seen != there:
        raise Conflict(f"The budget {name} was changed meanwhile; read it again.", param="revision")
