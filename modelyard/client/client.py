"""`Client`: the yard for scripts, with the operator's login."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from modelyard.bus.connection import Bus
from modelyard.client import logs
from modelyard.client.chat import chat
from modelyard.client.commands import (
    AccountClient,
    AlertClient,
    BucketMethod,
    CommandGroup,
    HubClient,
    RegistryClient,
)
from modelyard.client.downloads import DownloadClient
from modelyard.client.events import Event, audit_records, events
from modelyard.client.library import LibraryClient
from modelyard.client.start import follow_start
from modelyard.host.home import broker_url
from modelyard.host.settings import Settings, load
from schemas import buckets, subjects
from schemas.audit import Audited
from schemas.base import Role
from schemas.downloads import Download, StartDownload
from schemas.errors import BadRequest, DeadlineExceeded, NotFound
from schemas.groups import GroupRef, GroupStored, ListGroups, ModelGroup
from schemas.instances import Instance
from schemas.logs import FoundLine, LogLine, LogOrder, LogPage, LogQuery
from schemas.metrics import AskSamples, MetricsAnswer, MetricsQuery, Samples
from schemas.models import ModelRef, ModelStarting, ModelStopping
from schemas.placing import Cordon, PlanAnswer, PlanQuery
from schemas.subject import Command
from schemas.usage import UsageQuery, UsageReport

T = TypeVar("T")
R = TypeVar("R")


class Client(CommandGroup):
    """One connection to the yard. A refusal is raised as an error of `schemas.errors`.

    A generator works while it is iterated; close it (`contextlib.aclosing`) to leave early.
    """

    models = BucketMethod(buckets.MODELS)
    """The registry, by model key."""
    instances = BucketMethod(buckets.INSTANCES)
    """Running instances, and recently ended ones, by instance id."""
    waiting = BucketMethod(buckets.WAITING)
    """Models that are requested and not served yet, with the reason."""
    nodes = BucketMethod(buckets.NODES)
    """Live nodes, by name."""
    departures = BucketMethod(buckets.DEPARTURES)
    """Nodes that left on purpose and are not back, by name."""
    devices = BucketMethod(buckets.DEVICES)
    """The newest sample of every device, by `node.device`."""
    adapters = BucketMethod(buckets.ADAPTERS)
    """The sources of devices, and their problems, by `node.adapter`."""
    downloads = BucketMethod(buckets.DOWNLOADS)
    """Downloads, ended ones included, by id."""

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
        return await self.bus.call(subjects.METRICS_NOW, AskSamples(names=names))

    async def history(
        self,
        *names: str,
        labels: Mapping[str, str] | None = None,
        since: float | None = None,
        until: float | None = None,
        step_s: float | None = None,
    ) -> MetricsAnswer:
        """Min, avg and max of metrics a step, at most a day back. `since` defaults to an hour ago."""
        query = MetricsQuery(names=names, labels=dict(labels or {}), since=since, until=until, step_s=step_s)
        return await self.bus.call(subjects.METRICS_QUERY, query)

    async def start(self, model: str) -> ModelStarting:
        """Start `model` unless it runs already. The reply names the instance to wait for."""
        return await self.bus.call(subjects.MODEL_START, ModelRef(model=model))

    async def stop(self, model: str) -> ModelStopping:
        """Drain and stop every instance of `model`."""
        return await self.bus.call(subjects.MODEL_STOP, ModelRef(model=model))

    async def plan(self, model: str) -> PlanAnswer:
        """The scheduler's decision if `model` were requested now; nothing is done."""
        return await self.bus.call(subjects.MODEL_PLAN, PlanQuery(model=model))

    async def groups(self) -> tuple[ModelGroup, ...]:
        """Models that run together, or never at the same time."""
        return (await self.bus.call(subjects.GROUP_LIST, ListGroups())).groups

    async def put_group(self, group: ModelGroup) -> GroupStored:
        """Store a group, new or in place of the one of its name."""
        return await self.bus.call(subjects.GROUP_PUT, group)

    async def remove_group(self, name: str) -> GroupStored:
        """Remove a group; its models stay."""
        return await self.bus.call(subjects.GROUP_DELETE, GroupRef(name=name))

    def starting(self, model: str, instance: str | None = None) -> AsyncGenerator[Instance, None]:
        """Every state of `model` until it is ready, the last one included; StartFailed if it fails.

        Pass the `instance` that `start` returned, so that an earlier failure is not taken for this start's.
        """
        return follow_start(self.bus, model, instance)

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

    def pull(self, wanted: str | StartDownload, name: str | None = None) -> AsyncGenerator[Download, None]:
        """Download a model, or join a running download of it; every update until one of `ENDED`.

        `wanted` is a reference, or a whole command. Closing the generator leaves the download running;
        `cancel_download` ends it.
        """
        command = StartDownload(reference=wanted, name=name) if isinstance(wanted, str) else wanted
        return self.download_queue.pull(command)

    async def cancel_download(self, download: str) -> Download:
        """End a download; what is on disk stays for a later one."""
        return await self.download_queue.cancel(download=download)

    async def usage(
        self, since: float | None = None, model: str | None = None, recent: int = 0
    ) -> UsageReport:
        """Sums by model since `since` (unix seconds; None: all), and the `recent` newest records."""
        return await self.accounts.usage(UsageQuery(since=since, model=model, recent=recent))

    def events(
        self, since: float | None = None, *, follow: bool = True, kind: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Every event since `since` (unix seconds; None: all that are stored), oldest first.

        With `follow` it continues with new ones, else it ends with the newest. `kind`: only events about a
        `model`, an `instance`, an `alert`, …: the third token of their subjects.
        """
        return events(self.bus, since, follow=follow, kind=kind)

    def logs(
        self,
        model_or_instance: str,
        *,
        since: float | None = None,
        grep: str | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of an engine: of one instance, or of a model's newest.

        With `since` (unix seconds) of all instances of the model since then. `grep`: only lines that contain
        this text, ignoring case. With `follow` it continues with new ones.
        """
        return logs.instance_lines(self.bus, model_or_instance, since=since, grep=grep, follow=follow)

    async def search_logs(
        self,
        query: LogQuery,
        *,
        order: LogOrder = LogOrder.NEWEST,
        limit: int = 200,
        cursor: str | None = None,
    ) -> LogPage:
        """One page of the lines of engines and services that match; `cursor`: where another page ended."""
        return await logs.search(self.bus, query, order=order, limit=limit, cursor=cursor)

    def find_logs(
        self, query: LogQuery, *, order: LogOrder = LogOrder.OLDEST, follow: bool = False
    ) -> AsyncGenerator[FoundLine, None]:
        """Every line that matches; with `follow`, oldest first, continued with new ones."""
        if follow:
            return logs.follow_search(self.bus, query)
        return logs.search_all(self.bus, query, order=order)

    def audit(self, since: float | None = None, *, follow: bool = False) -> AsyncGenerator[Audited, None]:
        """Every audited command since `since` (unix seconds; None: all that are stored), oldest first."""
        return audit_records(self.bus, since, follow=follow)

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        timeout_s: float = 300.0,
        **params: Any,
    ) -> AsyncGenerator[str, None]:
        """The answer's text in pieces. `params` go into the request as they are (temperature, …).

        Closing the generator cancels the request. `timeout_s`: the longest gap between two pieces.
        """
        if params.get("stream") is False:
            raise BadRequest("Chat over NATS always streams; join the pieces instead.", param="stream")
        body = {**params, "model": model, "messages": messages, "stream": True}
        return chat(self.bus, body, timeout_s=timeout_s)
