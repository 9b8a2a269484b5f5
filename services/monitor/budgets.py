"""Budgets: stored, totalled, and published: states to the gateway by a bucket, crossed levels as events."""

import asyncio
import time
from collections.abc import Sequence
from zoneinfo import ZoneInfo

import msgspec

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketStore, Records
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
from schemas.errors import BadRequest, NotFound, YardError
from schemas.metrics import Sample
from services.monitor.budget_totals import BudgetTotal, budget_samples, level_crossed, load_used
from services.monitor.calendar import zone
from services.monitor.usage.database import UsageDatabase
from services.monitor.usage.store import UsageIncrement

log = logs.get(__name__)

PUBLISH_S = 0.2
"""How often totals are published, and how late the end of a period is noticed."""
IDLE_S = 1.0
"""The same without a budget: five wake-ups a second add up."""


class Budgets:
    """Every budget with its running total. Opened once, then `run`."""

    def __init__(
        self, bus: Bus, usage: UsageDatabase, records: Records[Budget], published: dict[str, BudgetState]
    ) -> None:
        self._bus = bus
        self._usage = usage
        self._records = records
        self._states = BucketStore(bus, buckets.SPENDING)
        self._totals: dict[str, BudgetTotal] = {}
        self._published = published
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, bus: Bus, tasks: Tasks, usage: UsageDatabase) -> "Budgets":
        """With the totals of all stored usage."""
        records = await Records.start(bus, buckets.BUDGETS, tasks, "budget")
        budgets = cls(bus, usage, records, await read_bucket(bus, buckets.SPENDING))
        for name, budget in records.values.items():
            budgets._totals[name] = await budgets._load_total(budget)
        usage.on_increment(budgets._add_increments)
        usage.on_recount(budgets._reload)
        return budgets

    def samples(self) -> list[Sample]:
        return [sample for total in self._totals.values() for sample in budget_samples(total.state())]

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_S if self._totals else IDLE_S)
            try:
                async with self._lock:
                    await self._begin_periods()
                    await self._publish_changes()
            except YardError as error:
                # Retried until the broker is there again.
                log.warning("budgets_publish_failed", reason=error.message)
            except Exception:
                log.exception("budgets_failed")

    async def put(self, command: PutBudget) -> BudgetStored:
        """Store a budget; when this returns, its state is published."""
        budget = self._checked(command)
        async with self._lock:
            revision = await self._records.put(budget.budget, budget, expected=command.revision)
            self._totals[budget.budget] = await self._load_total(budget)
            await self._publish_changes()
        return BudgetStored(budget=budget.budget, revision=revision)

    def _checked(self, command: PutBudget) -> Budget:
        budget = Budget(**{name: getattr(command, name) for name in Budget.__struct_fields__})
        if budget.tz is not None:
            zone(budget.tz)
        if budget.key == "":
            raise BadRequest(
                "`key` is the id of an API key, or `anyone` for requests without one.", param="key"
            )
        if budget.model is None:
            return budget
        return msgspec.structs.replace(budget, model=self._usage.resolve_name(budget.model))

    async def get(self, ref: BudgetRef) -> StoredBudget:
        return self._stored(self._find(ref))

    async def list(self, _query: ListBudgets) -> BudgetList:
        return BudgetList(
            budgets=tuple(self._stored(name) for name in sorted(self._totals)), currency=self._usage.currency
        )

    async def delete(self, ref: BudgetRef) -> BudgetStored:
        """Delete a budget; requests that it refused are admitted."""
        async with self._lock:
            name = self._find(ref)
            revision = await self._records.delete(name)
            del self._totals[name]
            self._published.pop(name, None)
            await self._states.delete(name)
        return BudgetStored(budget=name, revision=revision)

    def _find(self, ref: BudgetRef) -> str:
        if ref.budget not in self._totals:
            raise NotFound(f"There is no budget {ref.budget!r}.", param="budget")
        return ref.budget

    def _stored(self, name: str) -> StoredBudget:
        total = self._totals[name]
        return StoredBudget(budget=total.budget, revision=self._records.revision(name), state=total.state())

    async def _load_total(self, budget: Budget) -> BudgetTotal:
        tz: ZoneInfo = self._usage.tz if budget.tz is None else zone(budget.tz)
        total = BudgetTotal.start(budget, tz, time.time())
        total.serial, total.used = await self._usage.write(load_used, budget, total.starts_at, total.ends_at)
        return total

    async def _add_increments(self, increments: Sequence[UsageIncrement]) -> None:
        for total in self._totals.values():
            for increment in increments:
                total.add(increment)

    async def _reload(self) -> None:
        async with self._lock:
            for name, total in tuple(self._totals.items()):
                self._totals[name] = await self._load_total(total.budget)

    async def _begin_periods(self) -> None:
        now = time.time()
        for name, total in tuple(self._totals.items()):
            if not total.starts_at <= now < total.ends_at:
                self._totals[name] = await self._load_total(total.budget)

    async def _publish_changes(self) -> None:
        for name, total in tuple(self._totals.items()):
            state, before = total.state(), self._published.get(name)
            if state == before:
                continue
            if level_crossed(before, state):
                await self._publish_crossed(state)
            await self._states.put(name, state)
            self._published[name] = state

    async def _publish_crossed(self, state: BudgetState) -> None:
        log.info("budget_crossed", budget=state.budget, level=state.level, ratio=state.ratio)
        await self._bus.emit(
            subjects.BUDGET_CROSSED,
            state,
            event_id=f"{state.budget}.{state.starts_at:.0f}.{state.limit}.{state.level}",
            budget=check_token(state.budget),
            level=state.level,
        )
