"""`Client`: the yard for scripts, with the operator's login."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.client import kept, log_search
from modelyard.client.accounts import Accounts
from modelyard.client.alerting import Alerting
from modelyard.client.chatting import chat
from modelyard.client.download_queue import DownloadQueue
from modelyard.client.hub import Hub
from modelyard.client.library import Library
from modelyard.client.pulling import follow
from modelyard.client.registry import Registry
from modelyard.client.starting import starting
from modelyard.host.home import broker_url
from modelyard.host.settings import Settings, load
from schemas import buckets, subjects
from schemas.audit import Audited
from schemas.base import Role
from schemas.devices import Adapter, Device
from schemas.downloads import Download, StartDownload
from schemas.errors import BadRequest, DeadlineExceeded, NotFound
from schemas.groups import GroupRef, GroupStored, ListGroups, ModelGroup
from schemas.instances import Instance, Node, NodeLeft
from schemas.logs import FoundLine, LogLine, LogOrder, LogPage, LogQuery
from schemas.metrics import AskSamples, MetricsAnswer, MetricsQuery, Samples
from schemas.models import ModelRef, ModelSpec, ModelStarting, ModelStopping
from schemas.placing import Cordon, PlanAnswer, PlanQuery, WaitingModel
from schemas.usage import UsageQuery, UsageReport


class Client:
    """One connection to the yard. Whatever it refuses is raised as an error of `schemas.errors`.

    What returns a generator works while it is iterated; close it (`contextlib.aclosing`) to leave early.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.registry = Registry(bus)
        """Changes of models: put, patch, rename, delete, apply, history and undo."""
        self.download_queue = DownloadQueue(bus)
        """Orders about downloads: add, pause, resume, cancel, retry, move, limit and forget."""
        self.alerting = Alerting(bus)
        """Alert rules, silences, and the webhooks that are told."""
        self.hub = Hub(bus)
        """Search of the hub, offers of its repositories, and models of files that are here."""
        self.accounts = Accounts(bus)
        """Usage by any question, single records, prices, budgets, reports and storage."""
        self.library = Library(bus)
        """What lies on disk: show, describe, verify, delete, restore, copy, import."""

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

    async def models(self) -> dict[str, ModelSpec]:
        """The registry, by model key."""
        return await read_bucket(self.bus, buckets.MODELS)

    async def instances(self) -> dict[str, Instance]:
        """Running engines and what is remembered of ended ones, by instance id."""
        return await read_bucket(self.bus, buckets.INSTANCES)

    async def waits(self) -> dict[str, WaitingModel]:
        """Models that are asked for and not served yet, with the reason."""
        return await read_bucket(self.bus, buckets.WAITING)

    async def nodes(self) -> dict[str, Node]:
        """The machines that are there, by name."""
        return await read_bucket(self.bus, buckets.NODES)

    async def departures(self) -> dict[str, NodeLeft]:
        """Machines that left on purpose and are not back, by name."""
        return await read_bucket(self.bus, buckets.DEPARTURES)

    async def cordon(self, node: str, order: Cordon) -> None:
        """Have a machine take no new starts, or take them again; NotFound if there is none of this name."""
        if node not in (known := await self.nodes()):
            names = ", ".join(sorted(known)) or "none"
            raise NotFound(f"There is no node {node!r}; there are: {names}.", param="node")
        await self.bus.call(subjects.NODE_CORDON, order, node=node)

    async def devices(self) -> dict[str, Device]:
        """The newest sample of every device, by `node.device`."""
        return await read_bucket(self.bus, buckets.DEVICES)

    async def adapters(self) -> dict[str, Adapter]:
        """Where devices come from, and which of these sources do not work, by `node.adapter`."""
        return await read_bucket(self.bus, buckets.ADAPTERS)

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
        """What metrics were, at most a day ago: min, avg and max a step. `since` defaults to an hour ago."""
        query = MetricsQuery(names=names, labels=dict(labels or {}), since=since, until=until, step_s=step_s)
        return await self.bus.call(subjects.METRICS_QUERY, query)

    async def downloads(self) -> dict[str, Download]:
        """Downloads, ended ones included, by id."""
        return await read_bucket(self.bus, buckets.DOWNLOADS)

    async def start(self, model: str) -> ModelStarting:
        """Have `model` started, unless it is there already. The answer names the instance to wait for."""
        return await self.bus.call(subjects.MODEL_START, ModelRef(model=model))

    async def stop(self, model: str) -> ModelStopping:
        """Drain and stop every instance of `model`."""
        return await self.bus.call(subjects.MODEL_STOP, ModelRef(model=model))

    async def plan(self, model: str) -> PlanAnswer:
        """What would happen if `model` were asked for now."""
        return await self.bus.call(subjects.MODEL_PLAN, PlanQuery(model=model))

    async def groups(self) -> tuple[ModelGroup, ...]:
        """Models that run together, or never at the same time."""
        return (await self.bus.call(subjects.GROUP_LIST, ListGroups())).groups

    async def put_group(self, group: ModelGroup) -> GroupStored:
        """A group, new or in place of the one of its name."""
        return await self.bus.call(subjects.GROUP_PUT, group)

    async def remove_group(self, name: str) -> GroupStored:
        """Take a group away; its models stay."""
        return await self.bus.call(subjects.GROUP_DELETE, GroupRef(name=name))

    def starting(self, model: str, instance: str | None = None) -> AsyncGenerator[Instance, None]:
        """Every step of `model` on its way to ready, the last one included; StartFailed if it fails.

        Give the `instance` that `start` named, so that no earlier failure is taken for this start's.
        """
        return starting(self.bus, model, instance)

    async def wait_ready(
        self, model: str, timeout_s: float | None = None, *, instance: str | None = None
    ) -> Instance:
        """As `starting`, the last step only; DeadlineExceeded if that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                ready = [step async for step in self.starting(model, instance)][-1]
        except TimeoutError:
            raise DeadlineExceeded(f"{model} was not ready after {timeout_s:g} s.") from None
        return ready

    def pull(self, wanted: str | StartDownload, name: str | None = None) -> AsyncGenerator[Download, None]:
        """Have a model fetched, or join who fetches it already; every update until one of `ENDED`.

        `wanted` is a reference, or an order with all that can be said about it.

        Leaving early leaves the download running; `cancel_download` ends it.
        """
        order = StartDownload(reference=wanted, name=name) if isinstance(wanted, str) else wanted

        async def begin() -> tuple[Download, ...]:
            return (await self.download_queue.start(order),)

        return follow(self.bus, begin)

    async def cancel_download(self, download: str) -> Download:
        """End a download; what is on disk stays for a later one."""
        return await self.download_queue.cancel(download)

    async def usage(
        self, since: float | None = None, model: str | None = None, recent: int = 0
    ) -> UsageReport:
        """Sums by model since `since` (unix seconds; None: all), and the `recent` newest records."""
        return await self.accounts.usage(UsageQuery(since=since, model=model, recent=recent))

    def events(
        self, since: float | None = None, *, follow: bool = True, kind: str | None = None
    ) -> AsyncGenerator[kept.Event, None]:
        """Everything that happened since `since` (unix seconds; None: all that is kept), oldest first.

        With `follow` it goes on with what happens; without, it ends with the newest. `kind`: only events
        about a `model`, an `instance`, an `alert`, …: the third word of their subjects.
        """
        return kept.events(self.bus, since, follow=follow, kind=kind)

    def logs(
        self,
        model_or_instance: str,
        *,
        since: float | None = None,
        grep: str | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        """What an engine printed: of one instance, or of a model's newest.

        With `since` (unix seconds) of all instances of the model since then. `grep`: only lines with this
        text, in whatever case. With `follow` it goes on with what is printed from now on.
        """
        return kept.logs(self.bus, model_or_instance, since=since, grep=grep, follow=follow)

    async def search_logs(
        self,
        query: LogQuery,
        *,
        order: LogOrder = LogOrder.NEWEST,
        limit: int = 200,
        cursor: str | None = None,
    ) -> LogPage:
        """One page of what engines and services printed; `cursor`: where another page ended."""
        return await log_search.search(self.bus, query, order=order, limit=limit, cursor=cursor)

    def find_logs(
        self, query: LogQuery, *, order: LogOrder = LogOrder.OLDEST, follow: bool = False
    ) -> AsyncGenerator[FoundLine, None]:
        """Every line that matches; with `follow`, oldest first, and on with those that come."""
        if follow:
            return log_search.follow(self.bus, query)
        return log_search.every(self.bus, query, order=order)

    def audit(self, since: float | None = None, *, follow: bool = False) -> AsyncGenerator[Audited, None]:
        """Who changed what since `since` (unix seconds; None: all that is kept), oldest first."""
        return kept.audited(self.bus, since, follow=follow)

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        timeout_s: float = 300.0,
        **params: Any,
    ) -> AsyncGenerator[str, None]:
        """The answer's text as it is written. `params` go into the request as they are (temperature, …).

        Leaving early cancels the request. `timeout_s`: how long nothing at all may come.
        """
        if params.get("stream") is False:
            raise BadRequest("Chat over NATS always streams; join the pieces instead.", param="stream")
        body = {**params, "model": model, "messages": messages, "stream": True}
        return chat(self.bus, body, timeout_s=timeout_s)
