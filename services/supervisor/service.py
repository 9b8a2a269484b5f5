"""The supervisor: registry, scheduler and the agent of this node, on the wire."""

import asyncio
import time

import modelyard
from modelyard import logging
from modelyard.bus import Bus
from modelyard.home import broker_url
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror, Store
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.errors import BrokerUnavailable, Conflict
from schemas.instances import (
    LIVE,
    SERVING,
    Accepted,
    ClearNode,
    Instance,
    Node,
    NodeCleared,
    StartInstance,
    StopInstance,
)
from schemas.models import ModelRef, ModelSpec, ModelStarting, ModelStopping
from services.supervisor.engines import offers
from services.supervisor.node import NodeAgent
from services.supervisor.registry import Registry
from services.supervisor.runner.launch import Launch
from services.supervisor.scheduler import Scheduler

log = logging.get(__name__)

_NODE_TTL_S = 8
_NODE_RENEW_S = 2.5


class Supervisor:
    """The handlers behind the subscribe table in `main`."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        scheduler: Scheduler,
        agent: NodeAgent,
        instances: Mirror[Instance],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._scheduler = scheduler
        self._agent = agent
        self._instances = instances
        self._url = broker_url(settings)

    async def on_start(self, ref: ModelRef) -> ModelStarting:
        model = self._registry.find(ref.model).name
        if not self._serving(model):
            self._scheduler.want(model)
            try:
                async with asyncio.timeout(4):
                    await self._instances.until(lambda _: bool(self._serving(model)))
            except TimeoutError:
                reason = self._scheduler.reasons.get(model, "the node did not take it")
                raise Conflict(f"{model} is not started yet: {reason}.") from None
        instance = self._serving(model)[0]
        return ModelStarting(model=model, instance=instance.instance, state=instance.state)

    async def on_stop(self, ref: ModelRef) -> ModelStopping:
        model = self._registry.find(ref.model).name
        self._scheduler.unwant(model)
        stopped = [instance.instance for instance in self._live(model)]
        for instance in stopped:
            await self._agent.stop(instance)
        return ModelStopping(model=model, instances=tuple(stopped))

    async def on_node_start(self, proposal: StartInstance) -> Accepted:
        spec = self._registry.find(proposal.model)
        if self._registry.revision(spec.name) != proposal.revision:
            raise Conflict(f"{spec.name} has another revision by now.")
        await self._agent.start(
            Launch(
                instance=proposal.instance,
                spec=spec,
                revision=proposal.revision,
                nats_url=self._url,
                failures=proposal.failures,
            )
        )
        return Accepted()

    async def on_node_stop(self, order: StopInstance) -> Accepted:
        await self._agent.stop(order.instance)
        return Accepted()

    async def on_node_clear(self, order: ClearNode) -> NodeCleared:
        return NodeCleared(stopped=await self._agent.clear(order.drain_s))

    def _serving(self, model: str) -> list[Instance]:
        """Those that serve or will; not those on their way down."""
        return [instance for instance in self._live(model) if instance.state in SERVING]

    def _live(self, model: str) -> list[Instance]:
        return [
            instance
            for instance in self._instances.values.values()
            if instance.model == model and instance.state in LIVE
        ]


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `Tasks` keeps the rest going."""
    models: Mirror[ModelSpec] = await Mirror.start(bus, buckets.MODELS, tasks)
    instances: Mirror[Instance] = await Mirror.start(bus, buckets.INSTANCES, tasks)
    registry = Registry(bus, tasks, settings, models, instances)
    scheduler = Scheduler(bus, settings, models, instances)
    agent = NodeAgent(bus, tasks, settings, instances)
    supervisor = Supervisor(settings, registry, scheduler, agent, instances)
    agent.adopt()
    tasks.spawn(_keep_present(bus, settings), "presence")
    tasks.spawn(scheduler.run(), "scheduler")
    await bus.subscribe(subjects.REQUEST_QUEUED, scheduler.on_queued)
    commands = await Commands.start(bus, tasks, "Registry, scheduler and engines.")
    await commands.add(subjects.MODEL_GET, registry.get)
    await commands.add(subjects.MODEL_LIST, registry.models)
    await commands.add(subjects.MODEL_HISTORY, registry.history)
    await commands.add_with_caller(subjects.MODEL_PUT, registry.put)
    await commands.add_with_caller(subjects.MODEL_PATCH, registry.patch)
    await commands.add_with_caller(subjects.MODEL_RENAME, registry.rename)
    await commands.add_with_caller(subjects.MODEL_DELETE, registry.delete)
    await commands.add_with_caller(subjects.MODEL_APPLY, registry.apply)
    await commands.add_with_caller(subjects.MODEL_UNDO, registry.undo)
    await commands.add(subjects.MODEL_START, supervisor.on_start)
    await commands.add(subjects.MODEL_STOP, supervisor.on_stop)
    node = settings.node
    await commands.add(subjects.NODE_START, supervisor.on_node_start, node=node)
    await commands.add(subjects.NODE_STOP, supervisor.on_node_stop, node=node)
    await commands.add(subjects.NODE_CLEAR, supervisor.on_node_clear, node=node)


async def _keep_present(bus: Bus, settings: Settings) -> None:
    store = Store(bus, buckets.NODES)
    node = Node(
        node=settings.node,
        version=modelyard.__version__,
        started_at=time.time(),
        engines=offers(settings),
    )
    while True:
        try:
            await store.put(settings.node, node, ttl_s=_NODE_TTL_S)
        except BrokerUnavailable as error:
            log.warning("presence_not_written", error=error.message)
        await asyncio.sleep(_NODE_RENEW_S)
