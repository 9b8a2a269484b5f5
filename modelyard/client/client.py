"""`Client`: the yard for scripts, with the operator's login."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from modelyard.bus.connection import Bus
from modelyard.client import logs as log_search
from modelyard.client.chat import chat
from modelyard.client.commands import (
    AccountClient,
    AlertClient,
    BusMethod,
    CommandGroup,
    CommandMethod,
    HubClient,
    RegistryClient,
    values_of,
)
from modelyard.client.downloads import DownloadClient
from modelyard.client.events import audit_records, events
from modelyard.client.follow import follow_start
from modelyard.client.library import LibraryClient
from modelyard.host.home import broker_url
from modelyard.host.settings import Settings, load
from schemas import buckets, subjects
from schemas.base import Role
from schemas.downloads import Download, StartDownload
from schemas.errors import BadRequest, DeadlineExceeded, NotFound
from schemas.instances import Instance
from schemas.logs import LogOrder, LogQuery, MatchedLine
from schemas.metrics import GetSamples, MetricsQuery, MetricsReply, Samples
from schemas.placement import Cordon
from schemas.registry import ListGroups, ModelGroup
from schemas.subject import Command

T = TypeVar("T")
R = TypeVar("R")


class Client(CommandGroup):
    """One connection to the yard. A refusal is raised as an error of `schemas.errors`.

    A generator works while it is iterated; close it (`contextlib.aclosing`) to leave early.
    """

    models = values_of(buckets.MODELS)
    """The registry, by model key."""
    instances = values_of(buckets.INSTANCES)
    """Running instances, and recently ended ones, by instance id."""
    waiting = values_of(buckets.WAITING)
    """Models that are requested and not served yet, with the reason."""
    nodes = values_of(buckets.NODES)
    """Live nodes, by name."""
    departures = values_of(buckets.DEPARTURES)
    """Nodes that left on purpose and are not back, by name."""
    devices = values_of(buckets.DEVICES)
    """The newest sample of every device, by `node.device`."""
    adapters = values_of(buckets.ADAPTERS)
    """The sources of devices, and their problems, by `node.adapter`."""
    downloads = values_of(buckets.DOWNLOADS)
    """Downloads, ended ones included, by id."""

    start = CommandMethod(subjects.MODEL_START)
    stop = CommandMethod(subjects.MODEL_STOP)
    plan = CommandMethod(subjects.MODEL_PLAN)
    put_group = CommandMethod(subjects.GROUP_PUT)
    remove_group = CommandMethod(subjects.GROUP_DELETE)
    cancel_download = CommandMethod(subjects.DOWNLOAD_CANCEL)
    usage = CommandMethod(subjects.USAGE_QUERY)

    starting = BusMethod(follow_start)
    events = BusMethod(events)
    audit = BusMethod(audit_records)
    logs = BusMethod(log_search.instance_lines)
    search_logs = BusMethod(log_search.search)

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.registry = RegistryClient(bus)
        self.download_queue = DownloadClient(bus)
        self.alerting = AlertClient(bus)
        self.hub = HubClient(bus)
        self.accounts = AccountClient(bus)
        self.library = LibraryClient(bus)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, settings: Settings | None = None, url: str | None = None, *, timeout_s: float = 10.0
    ) -> AsyncIterator[Self]:
        """Log in; BrokerUnavailable if that does not work in time.

        Settings default to the environment's, the URL to the broker of the yard that runs with them.
        """
        settings = settings or load()
        url = url or broker_url(settings)
        bus = await Bus.connect(settings, Role.OPERATOR, url=url, timeout_s=timeout_s)
        try:
            yield cls(bus)
        finally:
            await bus.close()

    async def call(self, command: Command[T, R], payload: T) -> R:
        """Any command of the contract whose subject has no tokens."""
        return await self.bus.call(command, payload)

    async def cordon(self, node: str, command: Cordon) -> None:
        """Stop or resume scheduling on a node; NotFound if there is none of this name."""
        if node not in (known := await self.nodes()):
            names = ", ".join(sorted(known)) or "none"
            raise NotFound(f"There is no node {node!r}; there are: {names}.", param="node")
        await self.bus.call(subjects.NODE_CORDON, command, node=node)

    async def metrics(self, *names: str) -> Samples:
        """Every metric as it is now (docs/metrics.md has their names), or those named."""
        return await self.bus.call(subjects.METRICS_NOW, GetSamples(names=names))

    async def history(self, *names: str, **query: Any) -> MetricsReply:
        """Min, avg and max of metrics a step, at most a day back.

        `query`: other fields of `MetricsQuery`; `since` defaults to an hour ago.
        """
        return await self.bus.call(subjects.METRICS_QUERY, MetricsQuery(names=names, **query))

    async def groups(self) -> tuple[ModelGroup, ...]:
        """Models that run together, or never at the same time."""
        return (await self.bus.call(subjects.GROUP_LIST, ListGroups())).groups

    async def wait_ready(
        self, model: str, timeout_s: float | None = None, *, instance: str | None = None
    ) -> Instance:
        """As `starting`, the last state only; DeadlineExceeded if that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                ready = [state async for state in self.starting(model, instance)][-1]
        except TimeoutError:
            raise DeadlineExceeded(f"{model} was not ready after {timeout_s:g} s.") from None
        return ready

    def pull(self, request: str | StartDownload, name: str | None = None) -> AsyncGenerator[Download, None]:
        """Download a model, or join a running download of it; every update until one of `ENDED`.

        `request` is a reference, or a whole command. Closing the generator leaves the download running;
        `cancel_download` ends it.
        """
        command = StartDownload(reference=request, name=name) if isinstance(request, str) else request
        return self.download_queue.pull(command)

    def find_logs(
        self, query: LogQuery, *, order: LogOrder = LogOrder.OLDEST, follow: bool = False
    ) -> AsyncGenerator[MatchedLine, None]:
        """Every line that matches; with `follow`, oldest first, continued with new ones."""
        if follow:
            return log_search.follow_search(self.bus, query)
        return log_search.search_all(self.bus, query, order=order)

    def chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], *, timeout_s: float = 300.0, **params: Any
    ) -> AsyncGenerator[str, None]:
        """The answer's text in pieces. `params` go into the request as they are (temperature, …).

        Closing the generator cancels the request. `timeout_s`: the longest gap between two pieces.
        """
        if params.get("stream") is False:
            raise BadRequest("Chat over NATS always streams; join the pieces instead.", param="stream")
        body = {**params, "model": model, "messages": messages, "stream": True}
        return chat(self.bus, body, timeout_s=timeout_s)
