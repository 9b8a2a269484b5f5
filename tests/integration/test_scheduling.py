"""Who decides, and what a node that is silent costs the others."""

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
from schemas.errors import Conflict, StartFailed
from schemas.groups import ModelGroup
from schemas.instances import (
    Accepted,
    Instance,
    InstanceState,
    Node,
    Reason,
    StartInstance,
)
from schemas.leases import SCHEDULER, Lease
from schemas.models import ModelRef, ModelSpec
from schemas.placing import AskOptions, Need, NodeDevice, NodeOptions, Option, WaitingModel
from schemas.profiles import DeviceNeed, Profile
from schemas.registry import PatchModel, PutModel
from services.supervisor.agent.agent import NodeAgent
from services.supervisor.agent.reservations import Reservations
from services.supervisor.fetching.fetching import Fetching
from services.supervisor.scheduling.asking import Nodes
from services.supervisor.scheduling.demand import Demands
from services.supervisor.scheduling.lease import SchedulerLease
from services.supervisor.scheduling.memory import Memory
from services.supervisor.scheduling.scheduler import ORDER_S, Scheduler
from services.supervisor.service import main
from tests.support import Yard

GIB = 2**30


async def test_the_lease_of_one_who_left_is_taken_at_once(yard: Yard) -> None:
    bus = await yard.bus(Role.SUPERVISOR)
    first, second = SchedulerLease(bus, "a"), SchedulerLease(bus, "b")
    epoch = await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await first.release()
    async with asyncio.timeout(3):
        assert await waiting > epoch


async def test_the_lease_tells_everybody_the_epoch_of_its_holder(yard: Yard) -> None:
    bus = await yard.bus(Role.SUPERVISOR)
    epoch = await SchedulerLease(bus, "a").acquire()
    kept: Lease | None = await BucketStore(bus, buckets.LEASES).get(SCHEDULER)
    assert kept == Lease(holder="a", epoch=epoch)


async def test_an_expired_lease_is_taken_although_its_mark_is_still_there(yard: Yard) -> None:
    """The broker leaves a mark of the expiry for a second, which counts as a revision of the key."""
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


async def test_a_node_takes_no_late_order_of_a_scheduler_that_was_followed(yard: Yard) -> None:
    """Of one that was cut off, before the first order of its successor has come."""
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        instances: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        agent = NodeAgent(bus, tasks, yard.settings, instances, Reservations())
        agent.on_lease(SCHEDULER, Lease(holder="b", epoch=7))
        agent.on_lease("a-batch", Lease(holder="c", epoch=99))
        with pytest.raises(Conflict):
            agent.obey(6)
        agent.obey(7)
        agent.on_lease(SCHEDULER, Lease(holder="", epoch=0))
        with pytest.raises(Conflict):
            agent.obey(6)


class StandinNode:
    """Answers as a node agent does; a silent one says nothing to a start."""

    def __init__(self, yard: Yard, name: str, *, silent: bool = False, stumbles_over: str = "") -> None:
        self.name = name
        self.on_start: Callable[[], Awaitable[None]] | None = None
        """What it does before it takes a start."""
        self._stumbles_over = stumbles_over
        self.starts: list[float] = []
        self._yard = yard
        self._silent = silent

    async def open(self, tasks: Tasks) -> None:
        bus = await self._yard.bus(Role.SUPERVISOR)
        self._instances: BucketStore[Instance] = BucketStore(bus, buckets.INSTANCES)
        commands = await Commands.start(bus, tasks, "A node.")
        await commands.add(subjects.NODE_OPTIONS, self._options, node=self.name)
        await commands.add(subjects.NODE_START, self._start, node=self.name)
        devices = (NodeDevice(device="cpu", name="main memory", memory_bytes=GIB),)
        record = Node(node=self.name, version="1", started_at=0.0, devices=devices)
        await BucketStore(bus, buckets.NODES).put(self.name, record, ttl_s=60)

    async def _options(self, asked: AskOptions) -> NodeOptions:
        if asked.model == self._stumbles_over:
            raise ZeroDivisionError
        needs = (Need(device="cpu", memory_bytes=1),)
        return NodeOptions(options=(Option(node=self.name, devices=("cpu",), needs=needs),))

    async def _start(self, order: StartInstance) -> Accepted:
        self.starts.append(time.monotonic())
        if self._silent:
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


async def deciding(
    yard: Yard, tasks: Tasks, *names: str
) -> tuple[Scheduler, BucketCache[ModelSpec], BucketCache[Instance]]:
    """A scheduler at work on models of these names, and what it sees."""
    bus = await yard.bus(Role.SUPERVISOR)
    for name in names:
        await BucketStore(bus, buckets.MODELS).put(model_key(name), ModelSpec(name=name, path=f"{name}.gguf"))
    models: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
    instances: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
    nodes: BucketCache[Node] = await BucketCache.start(bus, buckets.NODES, tasks)
    groups: BucketCache[ModelGroup] = await BucketCache.start(bus, buckets.GROUPS, tasks)
    memory = await Memory.start(bus, tasks)
    asking = Nodes(bus, nodes, models)
    fetching = await Fetching.start(bus, tasks, asking)
    scheduler = Scheduler(bus, yard.settings, models, instances, nodes, asking, groups, memory, fetching)
    tasks.spawn(scheduler.run(1), "scheduler")
    await asyncio.sleep(0)
    return scheduler, models, instances


async def test_a_model_over_which_a_node_stumbles_does_not_cost_the_others_that_node(yard: Yard) -> None:
    """Any fault in the answer of `options` made the node look dead, for every model."""
    async with Tasks() as tasks:
        await StandinNode(yard, "a", stumbles_over="bad").open(tasks)
        scheduler, _, instances = await deciding(yard, tasks, "bad", "good")
        await scheduler.wish("bad")
        async with asyncio.timeout(5):
            while "a failed to say" not in scheduler.reasons.get("bad", ""):
                await asyncio.sleep(0.01)
        await scheduler.wish("good")
        async with asyncio.timeout(1.5):
            await instances.until(lambda values: any(one.model == "good" for one in values.values()))


async def test_a_model_that_leaves_in_the_middle_of_a_look_does_not_end_the_deciding(yard: Yard) -> None:
    """Deterministic: the first start of the look takes the second model away before it is answered."""
    async with Tasks() as tasks:
        node = StandinNode(yard, "a")
        await node.open(tasks)
        scheduler, models, instances = await deciding(yard, tasks, "a", "b", "c")

        async def take_b_away() -> None:
            node.on_start = None
            await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).delete(model_key("b"))
            await models.until(lambda values: "b" not in values)

        node.on_start = take_b_away
        scheduler.demands.wish("a", time.time())
        await scheduler.wish("b")
        async with asyncio.timeout(10):
            await models.until(lambda values: "b" not in values)
            await scheduler.wish("c")
            await instances.until(lambda values: any(one.model == "c" for one in values.values()))


async def test_a_start_that_no_device_can_hold_is_refused_at_once_and_only_for_a_while(
    yard: Yard, settings: Settings
) -> None:
    """It was a Conflict without the reason, after all of the time; and the record stayed for ever."""
    small = msgspec.structs.replace(settings, memory_limits={"cpu": GIB})
    profile = Profile(devices=(DeviceNeed(device="cpu", memory_mib=9000),))
    model = PutModel(name="m", path="none", engine="command", args=("true", "{port}"), profiles=(profile,))
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), small, tasks)
        operator = await yard.bus()
        stored = await operator.call(subjects.MODEL_PUT, model)
        with pytest.raises(StartFailed, match=r"needs 8\.8 GiB on cpu"):
            await operator.call(subjects.MODEL_START, ModelRef(model="m"), timeout_s=10)
        seen: BucketCache[Instance] = await BucketCache.start(operator, buckets.INSTANCES, tasks)
        assert {one.revision for one in seen.values.values()} == {stored.revision}
        await operator.call(subjects.MODEL_PATCH, PatchModel(model="m", patch={"profiles": None}))
        async with asyncio.timeout(5):
            await seen.until(lambda values: not any(one.started_at == 0 for one in values.values()))


async def test_a_node_that_takes_no_order_is_left_out_until_it_shows_itself_again(yard: Yard) -> None:
    """Its record lives on for some seconds: without that rule each look would begin with it again."""
    async with Tasks() as tasks:
        dead, alive = StandinNode(yard, "a", silent=True), StandinNode(yard, "b")
        for node in (dead, alive):
            await node.open(tasks)
        scheduler, _, instances = await deciding(yard, tasks, "m")
        await scheduler.wish("m")
        async with asyncio.timeout(ORDER_S + 3):
            await instances.until(lambda values: any(one.node == "b" for one in values.values()))
        assert len(dead.starts) == 1
        assert alive.starts[0] - dead.starts[0] < ORDER_S + 1


async def test_what_a_scheduler_was_told_the_next_one_knows(yard: Yard) -> None:
    """A stop and a start that were taken hold, although who took them was killed in the next moment."""
    bus = await yard.bus(Role.SUPERVISOR)
    waiting = WaitingModel(model="up", reason="its memory is held", since=5.0)
    await BucketStore(bus, buckets.WAITING).put(model_key("up"), waiting, ttl_s=60)
    async with Tasks() as tasks:
        first, told = await Memory.start(bus, tasks), Demands()
        told.hold("down", 10.0)
        told.wish("up", 20.0)
        told.wish("there", 20.0)
        await first.keep(told)
        told.fulfilled({"there"})
        await first.keep(told)
    async with Tasks() as tasks:
        second, known = await Memory.start(await yard.bus(Role.SUPERVISOR), tasks), Demands()
        second.recall(known)
        assert (known.held, known.wanted) == ({"down"}, {"up"})
        assert known.look({}, (), (), 30.0)["up"].since == 5.0
