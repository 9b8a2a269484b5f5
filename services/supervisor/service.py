"""The supervisor: registry, scheduler and the agent of this node, on the wire."""

import asyncio
import contextlib

import nats.errors

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.home import broker_url
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.devices import Device
from schemas.groups import ModelGroup
from schemas.instances import Instance, Node
from schemas.leases import Lease
from schemas.models import ModelSpec
from schemas.placing import MeasuredMemory
from services.supervisor.agent.agent import NodeAgent
from services.supervisor.agent.amends import Amends
from services.supervisor.agent.devices import Devices
from services.supervisor.agent.log_keeping import keep_logs
from services.supervisor.agent.measuring import Measuring
from services.supervisor.agent.orders import Orders
from services.supervisor.agent.presence import Presence
from services.supervisor.agent.reservations import Reservations
from services.supervisor.agent.workers import Workers
from services.supervisor.fetching.fetching import Fetching
from services.supervisor.groups import Groups
from services.supervisor.registry import Registry
from services.supervisor.scheduling.asking import Nodes
from services.supervisor.scheduling.lease import SchedulerLease
from services.supervisor.scheduling.memory import Memory
from services.supervisor.scheduling.scheduler import Scheduler
from services.supervisor.scheduling.wishes import Wishes

log = logs.get(__name__)


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `Tasks` keeps the rest going."""
    models: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
    instances: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
    known: BucketCache[ModelGroup] = await BucketCache.start(bus, buckets.GROUPS, tasks)
    groups = Groups(bus, known, models)
    registry = Registry(bus, tasks, settings, models, instances, groups)
    agent = await _serve_node(bus, settings, tasks, registry, instances)
    Amends(bus, tasks, settings.node, models, instances).begin()
    registering = await _serve_registry(bus, tasks, registry, groups)
    nodes: BucketCache[Node] = await BucketCache.start(bus, buckets.NODES, tasks)
    memory = await Memory.start(bus, tasks)
    asking = Nodes(bus, nodes, models)
    fetching = await Fetching.start(bus, tasks, asking)
    scheduler = Scheduler(bus, settings, models, instances, nodes, asking, known, memory, fetching)
    await scheduler.listen()
    lease = SchedulerLease(bus, settings.node)
    tasks.spawn(_lead(bus, lease, scheduler, Wishes(registry, scheduler, instances)), "lead")
    tasks.before_cancel(lease.release)
    await registering.announce()
    await agent.announce()


async def _serve_node(
    bus: Bus, settings: Settings, tasks: Tasks, registry: Registry, instances: BucketCache[Instance]
) -> Commands:
    samples: BucketCache[Device] = await BucketCache.start(bus, buckets.DEVICES, tasks)
    measured: BucketCache[MeasuredMemory] = await BucketCache.start(bus, buckets.MEMORY, tasks)
    reservations, devices = Reservations(), Devices(settings, samples)
    agent = NodeAgent(bus, tasks, settings, instances, reservations)
    workers = Workers(settings, tasks, reservations)
    agent.adopt()
    workers.adopt()
    await _follow_leases(bus, tasks, agent)
    presence = Presence(bus, settings, devices, agent, workers)
    orders = Orders(settings, registry, agent, workers, devices, presence, measured, broker_url(settings))
    commands, node = Commands.open(bus, tasks, "The agent of a node."), settings.node
    await commands.add(subjects.NODE_OPTIONS, orders.options, node=node)
    await commands.add(subjects.NODE_START, orders.start, node=node)
    await commands.add(subjects.NODE_WORKER, orders.worker, node=node)
    await commands.add(subjects.NODE_STOP, orders.stop, node=node)
    await commands.add(subjects.NODE_CLEAR, orders.clear, node=node)
    await commands.add(subjects.NODE_CORDON, orders.cordon, node=node)
    Measuring(bus, tasks, settings, instances, measured).begin()
    tasks.spawn(presence.keep(), "presence")
    tasks.spawn(keep_logs(settings, agent, workers), "keep logs")
    return commands


async def _follow_leases(bus: Bus, tasks: Tasks, agent: NodeAgent) -> None:
    """Know who decides before the first order comes."""
    leases: BucketCache[Lease] = await BucketCache.start(bus, buckets.LEASES, tasks)
    leases.listen(agent.on_lease)
    for key, lease in tuple(leases.values.items()):
        agent.on_lease(key, lease)


async def _serve_registry(bus: Bus, tasks: Tasks, registry: Registry, groups: Groups) -> Commands:
    commands = Commands.open(bus, tasks, "The registry of models.")
    await commands.add(subjects.MODEL_GET, registry.get)
    await commands.add(subjects.MODEL_LIST, registry.models)
    await commands.add(subjects.MODEL_HISTORY, registry.history)
    await commands.add_with_caller(subjects.MODEL_PUT, registry.put)
    await commands.add_with_caller(subjects.MODEL_PATCH, registry.patch)
    await commands.add_with_caller(subjects.MODEL_RENAME, registry.rename)
    await commands.add_with_caller(subjects.MODEL_DELETE, registry.delete)
    await commands.add_with_caller(subjects.MODEL_APPLY, registry.apply)
    await commands.add_with_caller(subjects.MODEL_UNDO, registry.undo)
    await commands.add(subjects.GROUP_PUT, groups.put)
    await commands.add(subjects.GROUP_DELETE, groups.delete)
    await commands.add(subjects.GROUP_LIST, groups.groups)
    return commands


async def _lead(bus: Bus, lease: SchedulerLease, scheduler: Scheduler, wishes: Wishes) -> None:
    """Decide whenever the lease is ours."""
    while True:
        epoch = await lease.acquire()
        try:
            await _decide(bus, lease, epoch, scheduler, wishes)
        except (TimeoutError, nats.errors.Error) as error:
            log.warning("cannot_lead_now", error=str(error))


async def _decide(bus: Bus, lease: SchedulerLease, epoch: int, scheduler: Scheduler, wishes: Wishes) -> None:
    async with Tasks() as leading:
        commands = await Commands.start(bus, leading, "The scheduler.")
        deciding = leading.spawn(scheduler.run(epoch), "scheduler")
        try:
            await commands.add(subjects.MODEL_START, wishes.start)
            await commands.add(subjects.MODEL_STOP, wishes.stop)
            await commands.add(subjects.MODEL_PLAN, wishes.plan)
            await lease.held()
        finally:
            deciding.cancel()
            await asyncio.shield(_fall_silent(commands))


async def _fall_silent(commands: Commands) -> None:
    """Answer as the scheduler no more. Where the lease was lost with the broker, nobody confirms that."""
    with contextlib.suppress(TimeoutError, nats.errors.Error):
        await commands.stop()
