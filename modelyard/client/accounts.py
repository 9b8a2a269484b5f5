"""Usage, prices, budgets, reports and storage for scripts."""

from collections.abc import AsyncGenerator

import msgspec

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.budgets import BudgetList, BudgetRef, BudgetStored, ListBudgets, PutBudget, StoredBudget
from schemas.prices import (
    DeletePrice,
    ListPrices,
    PriceRef,
    PricesAnswer,
    PriceStored,
    PutPrice,
    Reprice,
    Repriced,
    StoredPrices,
)
from schemas.storage import AskStorage, RemoveUsage, StorageReport, UsageRemoved, Vacuum, Vacuumed
from schemas.usage import (
    CountedRequest,
    Forecast,
    ForecastQuery,
    ListReports,
    PutReport,
    RebuildUsage,
    RecordsQuery,
    ReportList,
    ReportRef,
    ReportStored,
    StoredReport,
    UsageQuery,
    UsageRebuilt,
    UsageReport,
)


class Accounts:
    """What was used, and what it costs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def usage(self, query: UsageQuery) -> UsageReport:
        """Sums of usage and cost."""
        return await self._bus.call(subjects.USAGE_QUERY, query)

    async def records(self, query: RecordsQuery) -> AsyncGenerator[CountedRequest, None]:
        """Single records, oldest first, however many there are."""
        while True:
            page = await self._bus.call(subjects.USAGE_RECORDS, query)
            for record in page.records:
                yield record
            if page.next is None:
                return
            query = msgspec.structs.replace(query, after=page.next)

    async def rebuild(self, *, discard_older: bool = False) -> UsageRebuilt:
        """Read the event stream's records again and sum everything up anew."""
        return await self._bus.call(subjects.USAGE_REBUILD, RebuildUsage(discard_older=discard_older))

    async def forecast(self, query: ForecastQuery) -> Forecast:
        """What a period will have seen at its end."""
        return await self._bus.call(subjects.USAGE_FORECAST, query)

    async def remove_usage(self, model: str) -> UsageRemoved:
        """Take the usage of a model away that left the registry."""
        return await self._bus.call(subjects.USAGE_REMOVE, RemoveUsage(model=model))

    async def put_price(self, order: PutPrice) -> PriceStored:
        """A price from a moment on."""
        return await self._bus.call(subjects.PRICE_PUT, order)

    async def price(self, model: str) -> StoredPrices:
        """The prices of one model, or of `*`."""
        return await self._bus.call(subjects.PRICE_GET, PriceRef(model=model))

    async def prices(self) -> PricesAnswer:
        """The prices of all models."""
        return await self._bus.call(subjects.PRICE_LIST, ListPrices())

    async def delete_price(self, order: DeletePrice) -> PriceStored:
        """Take one price of a model away, or all."""
        return await self._bus.call(subjects.PRICE_DELETE, order)

    async def reprice(self, order: Reprice) -> Repriced:
        """Count the costs of a period anew."""
        return await self._bus.call(subjects.PRICE_REPRICE, order)

    async def put_budget(self, order: PutBudget) -> BudgetStored:
        """A budget, new or in place of the one of its name."""
        return await self._bus.call(subjects.BUDGET_PUT, order)

    async def budget(self, name: str) -> StoredBudget:
        """One budget, and where it stands."""
        return await self._bus.call(subjects.BUDGET_GET, BudgetRef(budget=name))

    async def budgets(self) -> BudgetList:
        """Every budget, and where it stands."""
        return await self._bus.call(subjects.BUDGET_LIST, ListBudgets())

    async def delete_budget(self, name: str) -> BudgetStored:
        """Take a budget away."""
        return await self._bus.call(subjects.BUDGET_DELETE, BudgetRef(budget=name))

    async def put_report(self, order: PutReport) -> ReportStored:
        """Keep a question under a name."""
        return await self._bus.call(subjects.REPORT_PUT, order)

    async def report(self, name: str) -> StoredReport:
        """A kept question."""
        return await self._bus.call(subjects.REPORT_GET, ReportRef(report=name))

    async def reports(self) -> ReportList:
        """Every kept question."""
        return await self._bus.call(subjects.REPORT_LIST, ListReports())

    async def delete_report(self, name: str) -> ReportStored:
        """Forget a question."""
        return await self._bus.call(subjects.REPORT_DELETE, ReportRef(report=name))

    async def run_report(self, name: str) -> UsageReport:
        """Ask a kept question now."""
        return await self._bus.call(subjects.REPORT_RUN, ReportRef(report=name))

    async def storage(self) -> StorageReport:
        """What is kept, and how much of it."""
        return await self._bus.call(subjects.STORAGE_REPORT, AskStorage())

    async def vacuum(self) -> Vacuumed:
        """Apply what retention rules, and give free space back."""
        return await self._bus.call(subjects.STORAGE_VACUUM, Vacuum())
