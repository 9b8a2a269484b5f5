"""Methods derived from the contract: a command each, called with a payload or with the payload's fields."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, overload

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from schemas import subjects
from schemas.buckets import Bucket
from schemas.hub import HubModel, SearchHub
from schemas.models import ModelSpec, ModelStored
from schemas.registry import ListModels, ModelRecord, PutModel
from schemas.subject import CommandOf
from schemas.usage import PricedRequest, RecordsQuery
from schemas.webhooks import ListWebhooks, WebhookRecord

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
    command: CommandOf[P, T, R]

    @overload
    async def __call__(self, payload: T | str, /) -> R: ...
    @overload
    async def __call__(self, *args: P.args, **fields: P.kwargs) -> R: ...
    async def __call__(self, *args: Any, **fields: Any) -> R:
        create: Callable[..., T] = self.command.payload
        (payload,) = args or (create(**fields),)
        if isinstance(payload, str):
            first, *_ = self.command.payload.__annotations__
            payload = create(**{first: payload})
        return await self.bus.call(self.command, payload)


class CommandMethod(Generic[P, T, R]):
    """A method of a CommandGroup; the fields of the command's payload are its arguments."""

    def __init__(self, command: CommandOf[P, T, R]) -> None:
        self._command = command
        self.__doc__ = command.summary

    def __get__(self, group: CommandGroup, owner: type | None = None) -> BoundCommand[P, T, R]:
        return BoundCommand(group.bus, self._command)


class BusMethod(Generic[P, R]):
    """A method of a CommandGroup that is a function of the connection."""

    def __init__(self, function: Callable[Concatenate[Bus, P], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, group: CommandGroup, owner: type | None = None) -> Callable[P, R]:
        return partial(self._function, group.bus)


def values_of(bucket: Bucket[V]) -> BusMethod[[], Coroutine[Any, Any, dict[str, V]]]:
    """A method that returns the values of a bucket, by key."""
    return BusMethod(lambda bus: read_bucket(bus, bucket))


class RegistryClient(CommandGroup):
    """Models. With a `revision`, a change is refused if the model has another one by now."""

    get = CommandMethod(subjects.MODEL_GET)
    patch = CommandMethod(subjects.MODEL_PATCH)
    rename = CommandMethod(subjects.MODEL_RENAME)
    delete = CommandMethod(subjects.MODEL_DELETE)
    apply = CommandMethod(subjects.MODEL_APPLY)
    history = CommandMethod(subjects.MODEL_HISTORY)
    undo = CommandMethod(subjects.MODEL_UNDO)

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

    offer = CommandMethod(subjects.HUB_OFFER)
    register = CommandMethod(subjects.FILES_REGISTER)

    async def search(self, query: SearchHub) -> tuple[HubModel, ...]:
        """Models on the hub, in the order of the query."""
        return (await self.bus.call(subjects.HUB_SEARCH, query)).models


class AlertClient(CommandGroup):
    """Alert rules, silences and webhooks."""

    alerts = CommandMethod(subjects.ALERT_LIST)
    put_rule = CommandMethod(subjects.ALERT_PUT)
    delete_rule = CommandMethod(subjects.ALERT_DELETE)
    reset_rule = CommandMethod(subjects.ALERT_RESET)
    test_rule = CommandMethod(subjects.ALERT_TEST)
    silence = CommandMethod(subjects.ALERT_SILENCE)
    unsilence = CommandMethod(subjects.ALERT_UNSILENCE)
    put_webhook = CommandMethod(subjects.WEBHOOK_PUT)
    delete_webhook = CommandMethod(subjects.WEBHOOK_DELETE)
    test_webhook = CommandMethod(subjects.WEBHOOK_TEST)

    async def webhooks(self) -> tuple[WebhookRecord, ...]:
        """Every webhook with the state of its deliveries."""
        return (await self.bus.call(subjects.WEBHOOK_LIST, ListWebhooks())).webhooks


class AccountClient(CommandGroup):
    """Usage, prices, budgets, reports and storage."""

    usage = CommandMethod(subjects.USAGE_QUERY)
    rebuild = CommandMethod(subjects.USAGE_REBUILD)
    forecast = CommandMethod(subjects.USAGE_FORECAST)
    remove_usage = CommandMethod(subjects.USAGE_REMOVE)
    put_price = CommandMethod(subjects.PRICE_PUT)
    price = CommandMethod(subjects.PRICE_GET)
    prices = CommandMethod(subjects.PRICE_LIST)
    delete_price = CommandMethod(subjects.PRICE_DELETE)
    reprice = CommandMethod(subjects.PRICE_REPRICE)
    put_budget = CommandMethod(subjects.BUDGET_PUT)
    budget = CommandMethod(subjects.BUDGET_GET)
    budgets = CommandMethod(subjects.BUDGET_LIST)
    delete_budget = CommandMethod(subjects.BUDGET_DELETE)
    put_report = CommandMethod(subjects.REPORT_PUT)
    report = CommandMethod(subjects.REPORT_GET)
    reports = CommandMethod(subjects.REPORT_LIST)
    delete_report = CommandMethod(subjects.REPORT_DELETE)
    run_report = CommandMethod(subjects.REPORT_RUN)
    storage = CommandMethod(subjects.STORAGE_REPORT)
    vacuum = CommandMethod(subjects.STORAGE_VACUUM)

    async def records(self, query: RecordsQuery) -> AsyncGenerator[PricedRequest, None]:
        """Single records, oldest first, page by page."""
        while True:
            page = await self.bus.call(subjects.USAGE_RECORDS, query)
            for record in page.records:
                yield record
            if page.next is None:
                return
            query = msgspec.structs.replace(query, after=page.next)
