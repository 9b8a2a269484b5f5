"""What was used, what it costs, and how long that is kept."""

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
    PricesAnswer,
    PriceStored,
    PutPrice,
    Reprice,
    Repriced,
    StoredPrices,
)
from schemas.storage import AskStorage, RemoveUsage, StorageReport, UsageRemoved, Vacuum, Vacuumed
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
    summary="Sum up usage and cost, by what is asked for.",
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
    summary="Read the usage records of the event stream again and sum everything up anew.",
    timeout_s=VERY_LONG_S,
    changes="",
)
USAGE_FORECAST = Command(
    "yard.command.usage.forecast",
    ForecastQuery,
    Forecast,
    callers=CALLERS,
    server=MONITOR,
    summary="What a period will have seen at its end, by the days before it.",
    timeout_s=LONG_S,
)
USAGE_REMOVE = Command(
    "yard.command.usage.remove",
    RemoveUsage,
    UsageRemoved,
    callers=CALLERS,
    server=MONITOR,
    summary="Take the usage of a model that left the registry away for good.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
PRICE_PUT = Command(
    "yard.command.price.put",
    PutPrice,
    PriceStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Give a model a price from a moment on.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
PRICE_GET = Command(
    "yard.command.price.get",
    PriceRef,
    StoredPrices,
    callers=CALLERS,
    server=MONITOR,
    summary="Every price of a model, and which is valid now.",
)
PRICE_LIST = Command(
    "yard.command.price.list",
    ListPrices,
    PricesAnswer,
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
    summary="Take a price of a model away, or all of them.",
    changes="model",
)
PRICE_REPRICE = Command(
    "yard.command.price.reprice",
    Reprice,
    Repriced,
    callers=CALLERS,
    server=MONITOR,
    summary="Count the costs of a period anew, with the prices there are now.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
BUDGET_PUT = Command(
    "yard.command.budget.put",
    PutBudget,
    BudgetStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Say how much may be used in a day, a week or a month.",
    changes="budget",
)
BUDGET_GET = Command(
    "yard.command.budget.get",
    BudgetRef,
    StoredBudget,
    callers=CALLERS,
    server=MONITOR,
    summary="One budget, and how much of it is used.",
)
BUDGET_LIST = Command(
    "yard.command.budget.list",
    ListBudgets,
    BudgetList,
    callers=CALLERS,
    server=MONITOR,
    summary="Every budget, and how much of it is used.",
)
BUDGET_DELETE = Command(
    "yard.command.budget.delete",
    BudgetRef,
    BudgetStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Take a budget away.",
    changes="budget",
)
REPORT_PUT = Command(
    "yard.command.report.put",
    PutReport,
    ReportStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Keep a question about usage under a name.",
    changes="report",
)
REPORT_GET = Command(
    "yard.command.report.get",
    ReportRef,
    StoredReport,
    callers=CALLERS,
    server=MONITOR,
    summary="A kept question.",
)
REPORT_LIST = Command(
    "yard.command.report.list",
    ListReports,
    ReportList,
    callers=CALLERS,
    server=MONITOR,
    summary="Every kept question.",
)
REPORT_DELETE = Command(
    "yard.command.report.delete",
    ReportRef,
    ReportStored,
    callers=CALLERS,
    server=MONITOR,
    summary="Forget a question.",
    changes="report",
)
REPORT_RUN = Command(
    "yard.command.report.run",
    ReportRef,
    UsageReport,
    callers=CALLERS,
    server=MONITOR,
    summary="Ask a kept question now.",
    timeout_s=LONG_S,
)
STORAGE_REPORT = Command(
    "yard.command.storage.report",
    AskStorage,
    StorageReport,
    callers=CALLERS,
    server=MONITOR,
    summary="What is kept, in every stream, bucket and table.",
    timeout_s=LONG_S,
)
STORAGE_VACUUM = Command(
    "yard.command.storage.vacuum",
    Vacuum,
    Vacuumed,
    callers=CALLERS,
    server=MONITOR,
    summary="Apply what retention rules, and give free space back to the disk.",
    timeout_s=VERY_LONG_S,
    changes="",
)
BUDGET_CROSSED = Subject(
    "yard.event.budget.{budget}.{level}",
    BudgetState,
    publish=(MONITOR,),
    subscribe=WATCHERS,
    summary="So much of a budget is used that a warning is due, or all of it; `within`: a new period began.",
)
