"""The scheduler: its lease, its orders to nodes, refusals, previews, and what the next holder takes over."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role, model_key
from schemas.errors import Conflict, NotFound, StartFailed
from schemas.instances import (
    Accepted,
    Instance,
    InstanceState,
    Node,
    Reason,
    StartInstance,
    StopInstance,
)
from schemas.leases import SCHEDULER, Lease
from schemas.models import ModelRef, ModelSpec
from schemas.placement import GetNodeOptions, MemoryNeed, NodeDevice, NodeOptions, Option, WaitingModel
from schemas.profiles import DeviceNeed, Profile
from schemas.registry import PatchModel, PutModel
from services.supervisor.fetching.fetcher import LibraryState, ModelFetcher
from services.supervisor.node.agent import NodeAgent
from services.supervisor.node.device_memory import Reservations
from services.supervisor.planning.world import SwapLimits
from services.supervisor.scheduler.demand import REFUSED_S, DemandTracker, StoredDemand
from services.supervisor.scheduler.leader import SchedulerCommands, SchedulerLease
from services.supervisor.scheduler.node_client import ORDER_TIMEOUT_S, NodeClient
from services.supervisor.scheduler.scheduler import Scheduler
from services.supervisor.scheduler.snapshot import YardState
from services.supervisor.service import main
from tests.support import Yard, eventually

GIB = 2**30


async def test_a_released_lease_is_acquired_at_once(yard: Yard) -> None:
    bus = await yard.bus(Role.SUPERVISOR)
    first, second = SchedulerLease(bus, "a"), SchedulerLease(bus, "b")
    epoch = await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await first.release()
    async with asyncio.timeout(3):
        assert await waiting > epoch


async def test_the_lease_has_the_epoch_of_its_holder(yard: Yard) -> None:
    bus = await yard.bus(Role.SUPERVISOR)
    epoch = await SchedulerLease(bus, "a").acquire()
    stored: Lease | None = await BucketStore(bus, buckets.LEASES).get(SCHEDULER)
    assert stored == Lease(holder="a", epoch=epoch)


async def test_an_expired_lease_is_acquired_although_its_marker_is_still_there(yard: Yard) -> None:
    """The broker leaves a marker of the expiry for a second, which counts as a revision of the key."""
    bus = await yard.bus(Role.SUPERVISOR)
    store: BucketStore[Lease] = BucketStore(bus, buckets.LEASES)
    async with Tasks() as tasks:
        leases: BucketCache[Lease] = await BucketCache.start(bus, buckets.LEASES, tasks)
        await store.put(SCHEDULER, Lease(holder="a"), ttl_s=1)
        await asyncio.wait_for(leases.until(lambda values: SCHEDULER in values), 5)
        await asyncio.wait_for(leases.until(lambda values: SCHEDULER not in values), 5)
        async with asyncio.timeout(0.9):
            epoch = await SchedulerLease(bus, "b").acquire()
        assert await store.get(SCHEDULER) == Lease(holder="b", epoch=epoch)


async def test_a_node_refuses_late_orders_of_an_earlier_lease_holder(yard: Yard) -> None:
    """Of one that was cut off, before the first order of its successor arrives."""
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        instances: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        agent = NodeAgent(bus, tasks, yard.settings, instances, Reservations())
        agent.on_lease(SCHEDULER, Lease(holder="b", epoch=7))
        agent.on_lease("a-batch", Lease(holder="c", epoch=99))
        with pytest.raises(Conflict):
            agent.check_epoch(6)
        agent.check_epoch(7)
        agent.on_lease(SCHEDULER, Lease(holder="", epoch=0))
        with pytest.raises(Conflict):
            agent.check_epoch(6)


class StandinNode:
    """Answers as a node does; an unresponsive one does not answer a start."""

    def __init__(self, yard: Yard, name: str, *, responsive: bool = True, fails_for: str = "") -> None:
        self.name = name
        self.on_start: Callable[[], Awaitable[None]] | None = None
        """Called before it accepts a start."""
        self._fails_for = fails_for
        self.starts: list[float] = []
        self._yard = yard
        self._responsive = responsive

    async def open(self, tasks: Tasks, *, cordoned: bool = False) -> None:
        bus = await self._yard.bus(Role.SUPERVISOR)
        self._instances: BucketStore[Instance] = BucketStore(bus, buckets.INSTANCES)
        commands = await Commands.start(bus, tasks, "A node.")
        await commands.add(subjects.NODE_OPTIONS, self._options, node=self.name)
        await commands.add(subjects.NODE_START, self._start, node=self.name)
        self._nodes: BucketStore[Node] = BucketStore(bus, buckets.NODES)
        await self.publish(cordoned=cordoned)

    async def publish(self, *, cordoned: bool) -> None:
        """Its record."""
        devices = (NodeDevice(device="cpu", name="main memory", memory_bytes=GIB),)
        record = Node(node=self.name, version="1", started_at=0.0, devices=devices, cordoned=cordoned)
        await self._nodes.put(self.name, record, ttl_s=60)

    async def _options(self, query: GetNodeOptions) -> NodeOptions:
        if query.model == self._fails_for:
            raise ZeroDivisionError
        needs = (MemoryNeed(device="cpu", memory_bytes=1),)
        return NodeOptions(options=(Option(node=self.name, devices=("cpu",), needs=needs),))

    async def _start(self, order: StartInstance) -> Accepted:
        self.starts.append(time.monotonic())
        if not self._responsive:
            await asyncio.Event().wait()
        if self.on_start is not None:
            await self.on_start()
        record = Instance(
            instance=order.instance,
            model=order.model,
            node=self.name,
            engine="stand-in",
            revision=order.revision,
            state=InstanceState.STARTING,
            reason=Reason.REQUESTED,
            changed_at=time.time(),
        )
        await self._instances.put(order.instance, record)
        return Accepted()


async def start_scheduler(yard: Yard, tasks: Tasks, *names: str) -> tuple[Scheduler, YardState]:
    """A running scheduler for models of these names, and the buckets that it follows."""
    bus = await yard.bus(Role.SUPERVISOR)
    for name in names:
        await BucketStore(bus, buckets.MODELS).put(model_key(name), ModelSpec(name=name, path=f"{name}.gguf"))
    state = YardState(
        models=await BucketCache.start(bus, buckets.MODELS, tasks),
        instances=await BucketCache.start(bus, buckets.INSTANCES, tasks),
        nodes=await BucketCache.start(bus, buckets.NODES, tasks),
        groups=await BucketCache.start(bus, buckets.GROUPS, tasks),
    )
    nodes = NodeClient(bus, state.nodes, state.models)
    fetching = ModelFetcher(bus, tasks, nodes, await LibraryState.start(bus, tasks))
    stored = await StoredDemand.start(bus, tasks)
    scheduler = Scheduler(bus, state, nodes, fetching, stored, SwapLimits())
    tasks.spawn(scheduler.run(1), "scheduler")
    await asyncio.sleep(0)
    return scheduler, state


async def test_a_model_for_which_options_fail_does_not_cost_the_others_that_node(yard: Yard) -> None:
    """Any error in `options` made the node unresponsive for every model."""
    async with Tasks() as tasks:
        await StandinNode(yard, "a", fails_for="bad").open(tasks)
        scheduler, state = await start_scheduler(yard, tasks, "bad", "good")
        await scheduler.request_start("bad")
        await eventually(
            lambda: "a failed to report" in scheduler.reasons.get("bad", ""), "the reason of bad", timeout_s=5
        )
        await scheduler.request_start("good")
        async with asyncio.timeout(1.5):
            await state.instances.until(lambda values: any(one.model == "good" for one in values.values()))


async def test_a_model_deleted_during_a_cycle_does_not_stop_the_scheduler(yard: Yard) -> None:
    """Deterministic: the first start of the cycle deletes the second model before it is answered."""
    async with Tasks() as tasks:
        node = StandinNode(yard, "a")
        await node.open(tasks)
        scheduler, state = await start_scheduler(yard, tasks, "a", "b", "c")

        async def delete_b() -> None:
            node.on_start = None
            await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).delete(model_key("b"))
            await state.models.until(lambda values: "b" not in values)

        node.on_start = delete_b
        scheduler.demand.request_start("a", time.time())
        await scheduler.request_start("b")
        async with asyncio.timeout(10):
            await state.models.until(lambda values: "b" not in values)
            await scheduler.request_start("c")
            await state.instances.until(lambda values: any(one.model == "c" for one in values.values()))


async def test_a_start_too_large_for_every_device_is_refused_until_the_model_is_edited(
    yard: Yard, settings: Settings
) -> None:
    """It was a Conflict without the reason, after the whole timeout; and the refusal stayed forever."""
    small = msgspec.structs.replace(settings, memory_limits={"cpu": GIB})
    profile = Profile(devices=(DeviceNeed(device="cpu", memory_mib=9000),))
    model = PutModel(name="m", path="none", engine="command", args=("true", "{port}"), profiles=(profile,))
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), small, tasks)
        operator = await yard.bus()
        stored = await operator.call(subjects.MODEL_PUT, model)
        with pytest.raises(StartFailed, match=r"needs 8\.8 GiB on cpu"):
            await operator.call(subjects.MODEL_START, ModelRef(model="m"), timeout_s=10)
        seen: BucketCache[WaitingModel] = await BucketCache.start(operator, buckets.WAITING, tasks)
        (waiting,) = seen.values.values()
        assert waiting.refused is not None
        assert 0 < waiting.refused.retry_at - time.time() <= REFUSED_S
        assert not await BucketStore(operator, buckets.INSTANCES).get(waiting.model), (
            "no instance stands for it"
        )
        patch = PatchModel(model="m", patch={"profiles": None}, revision=stored.revision)
        await operator.call(subjects.MODEL_PATCH, patch)
        async with asyncio.timeout(5):
            await seen.until(lambda values: not any(one.refused for one in values.values()))


async def test_a_start_that_has_to_wait_is_accepted_with_what_it_waits_for(yard: Yard) -> None:
    """It was a 409 for work that was accepted, and carried out later."""
    async with Tasks() as tasks:
        node = StandinNode(yard, "a")
        await node.open(tasks, cordoned=True)
        scheduler, state = await start_scheduler(yard, tasks, "m")
        commands = SchedulerCommands(FixedRegistry(state), scheduler)  # type: ignore[arg-type]
        answer = await commands.start(ModelRef(model="m"))
        assert (answer.model, answer.instance, answer.state) == ("m", None, "waiting")
        assert answer.reason == "a could run it, but is cordoned"
        assert scheduler.demand.start_requested == {"m"}
        await node.publish(cordoned=False)
        await asyncio.wait_for(scheduler.wait_until(lambda: bool(scheduler.serving("m"))), 10)
        assert (await commands.start(ModelRef(model="m"))).instance == scheduler.serving("m")[0].instance


class FixedRegistry:
    """Finds models in the buckets of a scheduler."""

    def __init__(self, state: YardState) -> None:
        self._state = state

    def find(self, name: str) -> ModelSpec:
        return self._state.specs()[name]


async def test_a_preview_changes_no_demand(yard: Yard) -> None:
    """A plan query pruned commands, began waits and renewed start commands, as if it were a request."""
    async with Tasks() as tasks:
        await StandinNode(yard, "a").open(tasks)
        scheduler, state = await start_scheduler(yard, tasks, "m", "n")
        await asyncio.wait_for(state.nodes.until(bool), 5)
        scheduler.demand.request_stop("m", 1.0)
        before = dict(scheduler.demand.desired)
        answer = await scheduler.preview("m")
        assert (answer.node, answer.evicts) == ("a", ())
        assert dict(scheduler.demand.desired) == before
        assert scheduler.demand.start_requested == frozenset()
        await scheduler.request_start("n")
        async with asyncio.timeout(5):
            await state.instances.until(bool)
        assert {one.model for one in state.instances.values.values()} == {"n"}


class LocalNode:
    """A node in the scheduler's process that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.release = asyncio.Event()
        self.handlers = {
            subjects.NODE_OPTIONS: self.options,
            subjects.NODE_START: self.start,
            subjects.NODE_STOP: self.stop,
        }

    async def options(self, query: GetNodeOptions) -> NodeOptions:
        self.calls.append("options")
        if query.model == "bad":
            raise ZeroDivisionError
        return NodeOptions(options=(Option(node="a", devices=("cpu",)),))

    async def start(self, order: StartInstance) -> Accepted:
        await self.release.wait()
        self.calls.append("start")
        return Accepted()

    async def stop(self, _order: StopInstance) -> Accepted:
        raise NotFound("No instance runs on this node.")


async def test_the_schedulers_own_node_is_called_directly(yard: Yard) -> None:
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        for name in ("bad", "m"):
            await BucketStore(bus, buckets.MODELS).put(name, ModelSpec(name=name, path="m.gguf"))
        await BucketStore(bus, buckets.NODES).put("a", Node(node="a", version="1", started_at=0.0), ttl_s=60)
        nodes: BucketCache[Node] = await BucketCache.start(bus, buckets.NODES, tasks)
        models: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
        wire = await (await yard.bus(Role.SUPERVISOR)).nc.subscribe("yard.command.node.a.>")
        local = LocalNode()
        client = NodeClient(bus, nodes, models, local={"a": local.handlers})
        options, problems = await client.options(["bad", "m"], ())
        assert [option.node for option in options["m"]] == ["a"]
        assert "a failed to report" in problems["bad"], "the error is reported for this model only"
        with pytest.raises(NotFound):
            await client.order(subjects.NODE_STOP, "a", StopInstance(instance="i"))
        order = StartInstance(instance="i", model="m", revision=1)
        starting = asyncio.create_task(client.order(subjects.NODE_START, "a", order))
        await asyncio.sleep(0)
        starting.cancel()
        local.release.set()
        await eventually(lambda: "start" in local.calls, "a start that ends although its caller is cancelled")
        await bus.nc.flush()
        assert wire.pending_msgs == 0


async def test_an_unresponsive_node_gets_no_order_until_it_renews_its_record(yard: Yard) -> None:
    """Its record lives for some seconds: without that rule every cycle would query it."""
    async with Tasks() as tasks:
        dead, alive = StandinNode(yard, "a", responsive=False), StandinNode(yard, "b")
        for node in (dead, alive):
            await node.open(tasks)
        scheduler, state = await start_scheduler(yard, tasks, "m")
        await scheduler.request_start("m")
        async with asyncio.timeout(ORDER_TIMEOUT_S + 3):
            await state.instances.until(lambda values: any(one.node == "b" for one in values.values()))
        assert len(dead.starts) == 1
        assert alive.starts[0] - dead.starts[0] < ORDER_TIMEOUT_S + 1


async def test_start_and_stop_commands_survive_the_lease_holder(yard: Yard) -> None:
    """Commands that were accepted hold, although the scheduler is killed the next moment."""
    bus = await yard.bus(Role.SUPERVISOR)
    waiting = WaitingModel(model="up", reason="its memory is held", since=5.0)
    await BucketStore(bus, buckets.WAITING).put(model_key("up"), waiting, ttl_s=60)
    async with Tasks() as tasks:
        first, demand = await StoredDemand.start(bus, tasks), DemandTracker()
        demand.request_stop("down", 10.0)
        demand.request_start("up", 20.0)
        demand.request_start("there", 20.0)
        await first.write(demand)
        demand.complete({"there"})
        await first.write(demand)
    async with Tasks() as tasks:
        loaded = (await StoredDemand.start(await yard.bus(Role.SUPERVISOR), tasks)).load()
        assert (loaded.stop_requested, loaded.start_requested) == ({"down"}, {"up"})
        assert loaded.update({}, (), (), 30.0)["up"].since == 5.0
