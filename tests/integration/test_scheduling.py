"""Who decides, and what a node that is silent costs the others."""

import asyncio
import time

import pytest

from modelyard.micro import Commands
from modelyard.state import Mirror, Store
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.batches import SCHEDULER, Lease
from schemas.errors import Conflict
from schemas.grammar import model_key
from schemas.groups import Group
from schemas.instances import (
    Accepted,
    Instance,
    InstanceState,
    Node,
    Reason,
    StartInstance,
)
from schemas.models import ModelSpec
from schemas.placing import AskOptions, Need, NodeDevice, Option, Options, WaitingModel
from schemas.roles import Role
from services.supervisor.agent.agent import NodeAgent
from services.supervisor.agent.reservations import Reservations
from services.supervisor.fetching.fetching import Fetching
from services.supervisor.scheduling.asking import Nodes
from services.supervisor.scheduling.demand import Demands
from services.supervisor.scheduling.lease import SchedulerLease
from services.supervisor.scheduling.memory import Memory
from services.supervisor.scheduling.scheduler import ORDER_S, Scheduler
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
    kept: Lease | None = await Store(bus, buckets.LEASES).get(SCHEDULER)
    assert kept == Lease(holder="a", epoch=epoch)


async def test_an_expired_lease_is_taken_although_its_mark_is_still_there(yard: Yard) -> None:
    """The broker leaves a mark of the expiry for a second, which counts as a revision of the key."""
    bus = await yard.bus(Role.SUPERVISOR)
    store: Store[Lease] = Store(bus, buckets.LEASES)
    async with Tasks() as tasks:
        leases: Mirror[Lease] = await Mirror.start(bus, buckets.LEASES, tasks)
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
        instances: Mirror[Instance] = await Mirror.start(bus, buckets.INSTANCES, tasks)
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

    def __init__(self, yard: Yard, name: str, *, silent: bool = False) -> None:
        self.name = name
        self.starts: list[float] = []
        self._yard = yard
        self._silent = silent

    async def open(self, tasks: Tasks) -> None:
        bus = await self._yard.bus(Role.SUPERVISOR)
        self._instances: Store[Instance] = Store(bus, buckets.INSTANCES)
        commands = await Commands.start(bus, tasks, "A node.")
        await commands.add(subjects.NODE_OPTIONS, self._options, node=self.name)
        await commands.add(subjects.NODE_START, self._start, node=self.name)
        devices = (NodeDevice(device="cpu", name="main memory", memory_bytes=GIB),)
        record = Node(node=self.name, version="1", started_at=0.0, devices=devices)
        await Store(bus, buckets.NODES).put(self.name, record, ttl_s=60)

    async def _options(self, _asked: AskOptions) -> Options:
        needs = (Need(device="cpu", memory_bytes=1),)
        return Options(options=(Option(node=self.name, devices=("cpu",), needs=needs),))

    async def _start(self, order: StartInstance) -> Accepted:
        self.starts.append(time.monotonic())
        if self._silent:
            await asyncio.Event().wait()
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


async def test_a_node_that_takes_no_order_is_left_out_until_it_shows_itself_again(yard: Yard) -> None:
    """Its record lives on for some seconds: without that rule each look would begin with it again."""
    bus = await yard.bus(Role.SUPERVISOR)
    async with Tasks() as tasks:
        dead, alive = StandinNode(yard, "a", silent=True), StandinNode(yard, "b")
        for node in (dead, alive):
            await node.open(tasks)
        await Store(bus, buckets.MODELS).put(model_key("m"), ModelSpec(name="m", path="m.gguf"))
        models: Mirror[ModelSpec] = await Mirror.start(bus, buckets.MODELS, tasks)
        instances: Mirror[Instance] = await Mirror.start(bus, buckets.INSTANCES, tasks)
        nodes: Mirror[Node] = await Mirror.start(bus, buckets.NODES, tasks)
        groups: Mirror[Group] = await Mirror.start(bus, buckets.GROUPS, tasks)
        memory = await Memory.start(bus, tasks)
        asking = Nodes(bus, nodes, models)
        fetching = await Fetching.start(bus, tasks, asking)
        scheduler = Scheduler(bus, yard.settings, models, instances, nodes, asking, groups, memory, fetching)
        tasks.spawn(scheduler.run(1), "scheduler")
        await asyncio.sleep(0)
        await scheduler.wish("m")
        async with asyncio.timeout(ORDER_S + 3):
            await instances.until(lambda values: any(one.node == "b" for one in values.values()))
        assert len(dead.starts) == 1
        assert alive.starts[0] - dead.starts[0] < ORDER_S + 1


async def test_what_a_scheduler_was_told_the_next_one_knows(yard: Yard) -> None:
    """A stop and a start that were taken hold, although who took them was killed in the next moment."""
    bus = await yard.bus(Role.SUPERVISOR)
    waiting = WaitingModel(model="up", reason="its memory is held", since=5.0)
    await Store(bus, buckets.WAITS).put(model_key("up"), waiting, ttl_s=60)
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
