"""Methods derived from the contract: a command each, called with a payload or with the payload's fields."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, overload

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from schemas import subjects
from schemas.alerts import (
    AlertRuleRef,
    EvaluateAlertRule,
    ListAlerts,
    PutAlertRule,
    SilenceAlerts,
    SilenceRef,
)
from schemas.buckets import Bucket
from schemas.budgets import BudgetRef, ListBudgets, PutBudget
from schemas.hub import GetOffer, HubModel, SearchHub
from schemas.models import ModelRef, ModelSpec, ModelStored
from schemas.prices import DeletePrice, ListPrices, PriceRef, PutPrice, Reprice
from schemas.registry import (
    ApplyModels,
    DeleteModel,
    ListModels,
    ModelRecord,
    PatchModel,
    PutModel,
    RegisterFiles,
    RenameModel,
    UndoModel,
)
from schemas.storage import GetStorageReport, RemoveUsage, Vacuum
from schemas.subject import Command
from schemas.usage import (
    ForecastQuery,
    ListReports,
    PricedRequest,
    PutReport,
    RebuildUsage,
    RecordsQuery,
    ReportRef,
    UsageQuery,
)
from schemas.webhooks import ListWebhooks, PutWebhook, WebhookRecord, WebhookRef

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
V = TypeVar("V")


class CommandGroup:
    """The commands about one noun."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus


class BoundCommand(NamedTuple, Generic[P, T, R]):
    """A command on a connection. It takes a payload, the payload's fields, or the first field alone."""

    bus: Bus
    command: Command[T, R]
    payload: Callable[P, T]

    @overload
    async def __call__(self, payload: T | str, /) -> R: ...
    @overload
    async def __call__(self, *args: P.args, **fields: P.kwargs) -> R: ...
    async def __call__(self, *args: Any, **fields: Any) -> R:
        create: Callable[..., T] = self.payload
        (payload,) = args or (create(**fields),)
        if isinstance(payload, str):
            first, *_ = self.command.payload.__annotations__
            payload = create(**{first: payload})
        return await self.bus.call(self.command, payload)


class CommandMethod(Generic[P, T, R]):
    """A method of a CommandGroup; `payload` is the command's own type, whose fields become the arguments."""

    def __init__(self, command: Command[T, R], payload: Callable[P, T]) -> None:
        self._command = command
        self._payload = payload
        self.__doc__ = command.summary

    def __get__(self, group: CommandGroup, owner: type | None = None) -> BoundCommand[P, T, R]:
        return BoundCommand(group.bus, self._command, self._payload)


class BucketMethod(Generic[V]):
    """A method of a CommandGroup that returns the values of a bucket, by key."""

    def __init__(self, bucket: Bucket[V]) -> None:
        self._bucket = bucket

    def __get__(
        self, group: CommandGroup, owner: type | None = None
    ) -> Callable[[], Coroutine[None, None, dict[str, V]]]:
        return lambda: read_bucket(group.bus, self._bucket)


class BusMethod(Generic[P, R]):
    """A method of a CommandGroup that is a function of the connection."""

    def __init__(self, function: Callable[Concatenate[Bus, P], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, group: CommandGroup, owner: type | None = None) -> Callable[P, R]:
        return partial(self._function, group.bus)


class RegistryClient(CommandGroup):
    """Models. With a `revision`, a change is refused if the model has another one by now."""

    get = CommandMethod(subjects.MODEL_GET, ModelRef)
    patch = CommandMethod(subjects.MODEL_PATCH, PatchModel)
    rename = CommandMethod(subjects.MODEL_RENAME, RenameModel)
    delete = CommandMethod(subjects.MODEL_DELETE, DeleteModel)
    apply = CommandMethod(subjects.MODEL_APPLY, ApplyModels)
    history = CommandMethod(subjects.MODEL_HISTORY, ModelRef)
    undo = CommandMethod(subjects.MODEL_UNDO, UndoModel)

    async def put(self, spec: ModelSpec, revision: int | None = None) -> ModelStored:
        """Store a whole spec, new or in place of the one before."""
        return await self.bus.call(subjects.MODEL_PUT, put_model(spec, revision))

    async def records(self) -> tuple[ModelRecord, ...]:
        """Every model, by name."""
        return (await self.bus.call(subjects.MODEL_LIST, ListModels())).models


def put_model(spec: ModelSpec, revision: int | None = None) -> PutModel:
    """The command that stores `spec`."""
    return PutModel(**msgspec.structs.asdict(spec), revision=revision)


class HubClient(CommandGroup):
    """The hub, and models made of files in a store."""

    offer = CommandMethod(subjects.HUB_OFFER, GetOffer)
    register = CommandMethod(subjects.FILES_REGISTER, RegisterFiles)

    async def search(self, query: SearchHub) -> tuple[HubModel, ...]:
        """Models on the hub, in the order of the query."""
        return (await self.bus.call(subjects.HUB_SEARCH, query)).models


class AlertClient(CommandGroup):
    """Alert rules, silences and webhooks."""

    alerts = CommandMethod(subjects.ALERT_LIST, ListAlerts)
    put_rule = CommandMethod(subjects.ALERT_PUT, PutAlertRule)
    delete_rule = CommandMethod(subjects.ALERT_DELETE, AlertRuleRef)
    reset_rule = CommandMethod(subjects.ALERT_RESET, AlertRuleRef)
    test_rule = CommandMethod(subjects.ALERT_TEST, EvaluateAlertRule)
    silence = CommandMethod(subjects.ALERT_SILENCE, SilenceAlerts)
    unsilence = CommandMethod(subjects.ALERT_UNSILENCE, SilenceRef)
    put_webhook = CommandMethod(subjects.WEBHOOK_PUT, PutWebhook)
    delete_webhook = CommandMethod(subjects.WEBHOOK_DELETE, WebhookRef)
    test_webhook = CommandMethod(subjects.WEBHOOK_TEST, WebhookRef)

    async def webhooks(self) -> tuple[WebhookRecord, ...]:
        """Every webhook with the state of its deliveries."""
        return (await self.bus.call(subjects.WEBHOOK_LIST, ListWebhooks())).webhooks


class AccountClient(CommandGroup):
    """Usage, prices, budgets, reports and storage."""

    usage = CommandMethod(subjects.USAGE_QUERY, UsageQuery)
    rebuild = CommandMethod(subjects.USAGE_REBUILD, RebuildUsage)
    forecast = CommandMethod(subjects.USAGE_FORECAST, ForecastQuery)
    remove_usage = CommandMethod(subjects.USAGE_REMOVE, RemoveUsage)
    put_price = CommandMethod(subjects.PRICE_PUT, PutPrice)
    price = CommandMethod(subjects.PRICE_GET, PriceRef)
    prices = CommandMethod(subjects.PRICE_LIST, ListPrices)
    delete_price = CommandMethod(subjects.PRICE_DELETE, DeletePrice)
    reprice = CommandMethod(subjects.PRICE_REPRICE, Reprice)
    put_budget = CommandMethod(subjects.BUDGET_PUT, PutBudget)
    budget = CommandMethod(subjects.BUDGET_GET, BudgetRef)
    budgets = CommandMethod(subjects.BUDGET_LIST, ListBudgets)
    delete_budget = CommandMethod(subjects.BUDGET_DELETE, BudgetRef)
    put_report = CommandMethod(subjects.REPORT_PUT, PutReport)
    report = CommandMethod(subjects.REPORT_GET, ReportRef)
    reports = CommandMethod(subjects.REPORT_LIST, ListReports)
    delete_report = CommandMethod(subjects.REPORT_DELETE, ReportRef)
    run_report = CommandMethod(subjects.REPORT_RUN, ReportRef)
    storage = CommandMethod(subjects.STORAGE_REPORT, GetStorageReport)
    vacuum = CommandMethod(subjects.STORAGE_VACUUM, Vacuum)

    async def records(self, query: RecordsQuery) -> AsyncGenerator[PricedRequest, None]:
        """Single records, oldest first, page by page."""
        while True:
            page = await self.bus.call(subjects.USAGE_RECORDS, query)
            for record in page.records:
                yield record
            if page.next is None:
                return
            query = msgspec.structs.replace(query, after=page.next)
