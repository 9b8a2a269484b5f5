"""Usage, prices, budgets, reports and retention."""

from schemas.base import CALLERS, LONG_S, MONITOR, VERY_LONG_S, WATCHERS
from schemas.budgets import (
    BudgetList,
    BudgetRef,
    BudgetState,
    BudgetStored,
    ListBudgets,
    PutBudget,
    StoredBudget,
)
from schemas.prices import (
    DeletePrice,
    ListPrices,
    PriceRef,
    PricesReply,
    PriceStored,
    PutPrice,
    Reprice,
    Repriced,
    StoredPrices,
)
from schemas.storage import GetStorageReport, RemoveUsage, StorageReport, UsageRemoved, Vacuum, Vacuumed
from schemas.subject import Command, Subject
from schemas.usage import (
    Forecast,
    ForecastQuery,
    ListReports,
    PutReport,
    RebuildUsage,
    RecordsPage,
    RecordsQuery,
    ReportList,
    ReportRef,
    ReportStored,
    StoredReport,
    UsageQuery,
    UsageRebuilt,
    UsageReport,
)

USAGE_QUERY = Command(
    "yard.command.usage.query",
    UsageQuery,
    UsageReport,
    callers=CALLERS,
    server=MONITOR,
    summary="Sum usage and cost, grouped by dimensions.",
    timeout_s=LONG_S,
)
USAGE_RECORDS = Command(
    "yard.command.usage.records",
    RecordsQuery,
    RecordsPage,
    callers=CALLERS,
    server=MONITOR,
    summary="Single usage records with their costs, in pages.",
    timeout_s=LONG_S,
)
USAGE_REBUILD = Command(
    "yard.command.usage.rebuild",
    RebuildUsage,
    UsageRebuilt,
    callers=CALLERS,
    server=MONITOR,
    summary="Rebuild all sums from the usage records of the event stream.",
    timeout_s=VERY_LONG_S,
    changes="",
)
USAGE_FORECAST = Command(
    "yard.command.usage.forecast",
    ForecastQuery,
    Forecast,
    callers=CALLERS,
    server=MONITOR,
    summary="Forecast the usage or cost of a period from the days before it.",
    timeout_s=LONG_S,
)
USAGE_REMOVE = Command(
    "yard.command.usage.remove",
    RemoveUsage,
    UsageRemoved,
    callers=CALLERS,
    server=MONITOR,
    summary="Delete the usage of a model that is no longer in the registry, permanently.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
PRICE_PUT = Command(
    "yard.command.price.put",
    PutPrice,
    PriceStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Set the price of a model from a date on.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
PRICE_GET = Command(
    "yard.command.price.get",
    PriceRef,
    StoredPrices,
    callers=CALLERS,
    server=MONITOR,
    summary="All prices of a model, and the one in force.",
)
PRICE_LIST = Command(
    "yard.command.price.list",
    ListPrices,
    PricesReply,
    callers=CALLERS,
    server=MONITOR,
    summary="The prices of all models.",
)
PRICE_DELETE = Command(
    "yard.command.price.delete",
    DeletePrice,
    PriceStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Delete a price of a model, or all of them.",
    changes="model",
)
PRICE_REPRICE = Command(
    "yard.command.price.reprice",
    Reprice,
    Repriced,
    callers=CALLERS,
    server=MONITOR,
    summary="Recompute the costs of a period with the current prices.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
BUDGET_PUT = Command(
    "yard.command.budget.put",
    PutBudget,
    BudgetStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Set a budget for a day, a week or a month.",
    changes="budget",
)
BUDGET_GET = Command(
    "yard.command.budget.get",
    BudgetRef,
    StoredBudget,
    callers=CALLERS,
    server=MONITOR,
    summary="One budget and its state.",
)
BUDGET_LIST = Command(
    "yard.command.budget.list",
    ListBudgets,
    BudgetList,
    callers=CALLERS,
    server=MONITOR,
    summary="All budgets and their state.",
)
BUDGET_DELETE = Command(
    "yard.command.budget.delete",
    BudgetRef,
    BudgetStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Delete a budget.",
    changes="budget",
)
REPORT_PUT = Command(
    "yard.command.report.put",
    PutReport,
    ReportStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Save a usage query as a report.",
    changes="report",
)
REPORT_GET = Command(
    "yard.command.report.get",
    ReportRef,
    StoredReport,
    callers=CALLERS,
    server=MONITOR,
    summary="One saved report.",
)
REPORT_LIST = Command(
    "yard.command.report.list",
    ListReports,
    ReportList,
    callers=CALLERS,
    server=MONITOR,
    summary="All saved reports.",
)
REPORT_DELETE = Command(
    "yard.command.report.delete",
    ReportRef,
    ReportStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Delete a report.",
    changes="report",
)
REPORT_RUN = Command(
    "yard.command.report.run",
    ReportRef,
    UsageReport,
    callers=CALLERS,
    server=MONITOR,
    summary="Run a saved report.",
    timeout_s=LONG_S,
)
STORAGE_REPORT = Command(
    "yard.command.storage.report",
    GetStorageReport,
    StorageReport,
    callers=CALLERS,
    server=MONITOR,
    summary="The size of everything stored: streams, buckets and tables.",
    timeout_s=LONG_S,
)
STORAGE_VACUUM = Command(
    "yard.command.storage.vacuum",
    Vacuum,
    Vacuumed,
    callers=CALLERS,
    server=MONITOR,
    summary="Apply the retention rules now, and return free space to the disk.",
    timeout_s=VERY_LONG_S,
    changes="",
)
BUDGET_CROSSED = Subject(
    "yard.event.budget.{budget}.{level}",
    BudgetState,
    publish=(MONITOR,),
    subscribe=WATCHERS,
    summary="A budget reached its warning level or its limit; `within`: a new period began.",
)
