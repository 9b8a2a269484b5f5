"""The supervisor on the wire: the registry, the commands of this node, and the scheduler."""

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.devices import Device
from schemas.instances import Instance
from schemas.leases import Lease
from schemas.placement import MeasuredMemory
from services.supervisor.fetching.fetcher import LibraryState, ModelFetcher
from services.supervisor.node.agent import NodeAgent
from services.supervisor.node.backoff import BackoffReset
from services.supervisor.node.commands import AgentCommands
from services.supervisor.node.device_memory import MemoryMeasurements, NodeDevices, Reservations
from services.supervisor.node.presence import LocalNode, NodePresence
from services.supervisor.node.workers import NodeWorkers
from services.supervisor.planning.world import SwapLimits
from services.supervisor.registry.groups import Groups
from services.supervisor.registry.ledger import ModelLedger
from services.supervisor.registry.registry import ModelRegistry
from services.supervisor.runner.engine_log import retain_logs
from services.supervisor.scheduler.demand import StoredDemand
from services.supervisor.scheduler.leader import SchedulerCommands, SchedulerLease, lead
from services.supervisor.scheduler.node_client import NodeClient
from services.supervisor.scheduler.scheduler import Scheduler
from services.supervisor.scheduler.snapshot import YardState


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `tasks` runs the rest."""
    state = YardState(
        models=await BucketCache.start(bus, buckets.MODELS, tasks),
        instances=await BucketCache.start(bus, buckets.INSTANCES, tasks),
        nodes=await BucketCache.start(bus, buckets.NODES, tasks),
        groups=await BucketCache.start(bus, buckets.GROUPS, tasks),
    )
    groups = Groups(bus, state.groups, state.models)
    ledger = ModelLedger(bus, tasks, settings, state.models)
    registry = ModelRegistry(bus, state.models, state.instances, ledger, groups)
    node, node_service = await _serve_node(bus, settings, tasks, registry, state.instances)
    BackoffReset(bus, tasks, settings.node, state.models, state.instances).begin()
    registry_service = await _serve_registry(bus, tasks, registry, groups)
    nodes = NodeClient(bus, state.nodes, state.models, local={settings.node: node.handlers})
    fetching = ModelFetcher(bus, tasks, nodes, await LibraryState.start(bus, tasks))
    limits = SwapLimits(max_wait_s=settings.swap_max_wait_s, min_dwell_s=settings.swap_min_dwell_s)
    stored = await StoredDemand.start(bus, tasks)
    scheduler = Scheduler(bus, state, nodes, fetching, stored, limits)
    await scheduler.listen()
    lease = SchedulerLease(bus, settings.node)
    tasks.spawn(lead(bus, lease, scheduler, SchedulerCommands(registry, scheduler)), "lead")
    tasks.before_cancel(lease.release)
    await registry_service.announce()
    await node_service.announce()


async def _serve_node(
    bus: Bus, settings: Settings, tasks: Tasks, registry: ModelRegistry, instances: BucketCache[Instance]
) -> tuple[AgentCommands, Commands]:
    samples: BucketCache[Device] = await BucketCache.start(bus, buckets.DEVICES, tasks)
    measured: BucketCache[MeasuredMemory] = await BucketCache.start(bus, buckets.MEMORY, tasks)
    reservations = Reservations()
    agent = NodeAgent(bus, tasks, settings, instances, reservations)
    workers = NodeWorkers(settings, tasks, reservations)
    agent.adopt()
    workers.adopt()
    # Before the first order comes, so that the agent has the scheduler's epoch.
    leases: BucketCache[Lease] = await BucketCache.start(bus, buckets.LEASES, tasks)
    leases.listen(agent.on_lease)
    for key, lease in tuple(leases.values.items()):
        agent.on_lease(key, lease)
    local = LocalNode(agent, workers, NodeDevices(settings, samples, reservations))
    presence = NodePresence(bus, settings, local)
    node = AgentCommands(settings, registry, local, presence, measured)
    commands = Commands.open(bus, tasks, "The agent of a node.")
    for command, handler in node.handlers.items():
        await commands.add(command, handler, node=settings.node)
    MemoryMeasurements(bus, tasks, settings, instances, measured)
    tasks.spawn(presence.renew(), "presence")
    tasks.spawn(retain_logs(settings, local.live), "retain logs")
    return node, commands


async def _serve_registry(bus: Bus, tasks: Tasks, registry: ModelRegistry, groups: Groups) -> Commands:
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
