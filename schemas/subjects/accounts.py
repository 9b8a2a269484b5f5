"""Usage, prices, budgets, reports and retention."""

from schemas.base import LONG_S, MONITOR, VERY_LONG_S
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
from schemas.subject import CommandDeclarer, Subject
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

_command = CommandDeclarer(MONITOR)

USAGE_QUERY = _command(
    "usage.query", UsageQuery, UsageReport, "Sum usage and cost, grouped by dimensions.", timeout_s=LONG_S
)
USAGE_RECORDS = _command(
    "usage.records",
    RecordsQuery,
    RecordsPage,
    "Single usage records with their costs, in pages.",
    timeout_s=LONG_S,
)
USAGE_REBUILD = _command(
    "usage.rebuild",
    RebuildUsage,
    UsageRebuilt,
    "Rebuild all sums from the usage records of the event stream.",
    timeout_s=VERY_LONG_S,
    changes="",
)
USAGE_FORECAST = _command(
    "usage.forecast",
    ForecastQuery,
    Forecast,
    "Forecast the usage or cost of a period from the days before it.",
    timeout_s=LONG_S,
)
USAGE_REMOVE = _command(
    "usage.remove",
    RemoveUsage,
    UsageRemoved,
    "Delete the usage of a model that is no longer in the registry, permanently.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
PRICE_PUT = _command(
    "price.put",
    PutPrice,
    PriceStored,
    "Set the price of a model from a date on.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
PRICE_GET = _command("price.get", PriceRef, StoredPrices, "All prices of a model, and the one in force.")
PRICE_LIST = _command("price.list", ListPrices, PricesReply, "The prices of all models.")
PRICE_DELETE = _command(
    "price.delete", DeletePrice, PriceStored, "Delete a price of a model, or all of them.", changes="model"
)
PRICE_REPRICE = _command(
    "price.reprice",
    Reprice,
    Repriced,
    "Recompute the costs of a period with the current prices.",
    timeout_s=VERY_LONG_S,
    changes="model",
)
BUDGET_PUT = _command(
    "budget.put", PutBudget, BudgetStored, "Set a budget for a day, a week or a month.", changes="budget"
)
BUDGET_GET = _command("budget.get", BudgetRef, StoredBudget, "One budget and its state.")
BUDGET_LIST = _command("budget.list", ListBudgets, BudgetList, "All budgets and their state.")
BUDGET_DELETE = _command("budget.delete", BudgetRef, BudgetStored, "Delete a budget.", changes="budget")
REPORT_PUT = _command(
    "report.put", PutReport, ReportStored, "Save a usage query as a report.", changes="report"
)
REPORT_GET = _command("report.get", ReportRef, StoredReport, "One saved report.")
REPORT_LIST = _command("report.list", ListReports, ReportList, "All saved reports.")
REPORT_DELETE = _command("report.delete", ReportRef, ReportStored, "Delete a report.", changes="report")
REPORT_RUN = _command("report.run", ReportRef, UsageReport, "Run a saved report.", timeout_s=LONG_S)
STORAGE_REPORT = _command(
    "storage.report",
    GetStorageReport,
    StorageReport,
    "The size of everything stored: streams, buckets and tables.",
    timeout_s=LONG_S,
)
STORAGE_VACUUM = _command(
    "storage.vacuum",
    Vacuum,
    Vacuumed,
    "Apply the retention rules now, and return free space to the disk.",
    timeout_s=VERY_LONG_S,
    changes="",
)
BUDGET_CROSSED = Subject(
    "yard.event.budget.{budget}.{level}",
    BudgetState,
    "A budget reached its warning level or its limit; `within`: a new period began.",
    publish=(MONITOR,),
)
