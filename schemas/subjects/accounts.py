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
_long = CommandDeclarer(MONITOR, timeout_s=LONG_S)
_very_long = CommandDeclarer(MONITOR, timeout_s=VERY_LONG_S)

USAGE_QUERY = _long("usage.query", UsageQuery, UsageReport, "Sum usage and cost, grouped by dimensions.")
USAGE_RECORDS = _long(
    "usage.records", RecordsQuery, RecordsPage, "Single usage records with their costs, in pages."
)
USAGE_REBUILD = _very_long(
    "usage.rebuild",
    RebuildUsage,
    UsageRebuilt,
    "Rebuild all sums from the usage records of the event stream.",
    changes="",
)
USAGE_FORECAST = _long(
    "usage.forecast",
    ForecastQuery,
    Forecast,
    "Forecast the usage or cost of a period from the days before it.",
)
USAGE_REMOVE = _very_long.change(
    "usage.remove",
    RemoveUsage,
    UsageRemoved,
    "Delete the usage of a model that is no longer in the registry, permanently.",
)
PRICE_PUT = _very_long.change("price.put", PutPrice, PriceStored, "Set the price of a model from a date on.")
PRICE_GET = _command("price.get", PriceRef, StoredPrices, "All prices of a model, and the one in force.")
PRICE_LIST = _command("price.list", ListPrices, PricesReply, "The prices of all models.")
PRICE_DELETE = _command.change(
    "price.delete", DeletePrice, PriceStored, "Delete a price of a model, or all of them."
)
PRICE_REPRICE = _very_long(
    "price.reprice",
    Reprice,
    Repriced,
    "Recompute the costs of a period with the current prices.",
    changes="model",
)
BUDGET_PUT = _command.change(
    "budget.put", PutBudget, BudgetStored, "Set a budget for a day, a week or a month."
)
BUDGET_GET = _command("budget.get", BudgetRef, StoredBudget, "One budget and its state.")
BUDGET_LIST = _command("budget.list", ListBudgets, BudgetList, "All budgets and their state.")
BUDGET_DELETE = _command.change("budget.delete", BudgetRef, BudgetStored, "Delete a budget.")
REPORT_PUT = _command.change("report.put", PutReport, ReportStored, "Save a usage query as a report.")
REPORT_GET = _command("report.get", ReportRef, StoredReport, "One saved report.")
REPORT_LIST = _command("report.list", ListReports, ReportList, "All saved reports.")
REPORT_DELETE = _command.change("report.delete", ReportRef, ReportStored, "Delete a report.")
REPORT_RUN = _long("report.run", ReportRef, UsageReport, "Run a saved report.")
STORAGE_REPORT = _long(
    "storage.report",
    GetStorageReport,
    StorageReport,
    "The size of everything stored: streams, buckets and tables.",
)
STORAGE_VACUUM = _very_long(
    "storage.vacuum",
    Vacuum,
    Vacuumed,
    "Apply the retention rules now, and return free space to the disk.",
    changes="",
)
BUDGET_CROSSED = Subject(
    "yard.event.budget.{budget}.{level}",
    BudgetState,
    "A budget reached its warning level or its limit; `within`: a new period began.",
    publish=(MONITOR,),
)
