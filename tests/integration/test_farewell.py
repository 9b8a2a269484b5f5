"""A machine that is switched off says so: nobody has to look for it, and nobody is alarmed."""

import asyncio

import pytest

from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.instances import ClearNode, Node, NodeLeft
from schemas.metrics import AskSamples, Samples
from services.supervisor.service import main
from tests.integration.test_monitor import monitor
from tests.support import Yard

TIMEOUT_S = 8.0


async def until_state(yard: Yard, node: str, *, there: bool, left: bool) -> None:
    """Wait until the node's record and its word that it left are there, or not."""
    bus = await yard.bus()
    nodes: BucketStore[Node] = BucketStore(bus, buckets.NODES)
    departures: BucketStore[NodeLeft] = BucketStore(bus, buckets.DEPARTURES)
    async with asyncio.timeout(TIMEOUT_S):
        while (await nodes.get(node) is not None, await departures.get(node) is not None) != (there, left):
            await asyncio.sleep(0.02)


async def test_a_node_that_is_cleared_says_that_it_left_until_it_is_back(
    yard: Yard, settings: Settings
) -> None:
    operator, node = await yard.bus(), settings.node
    events = await operator.nc.subscribe(subjects.NODE_LEFT(node=node))
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        await until_state(yard, node, there=True, left=False)
        await operator.call(subjects.NODE_CLEAR, ClearNode(drain_s=0), node=node, timeout_s=10)
        await until_state(yard, node, there=False, left=True)
        told = subjects.NODE_LEFT.decode((await events.next_msg(timeout=3)).data)
        assert told.node == node
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        await until_state(yard, node, there=True, left=False)


@pytest.mark.parametrize("left", [True, False])
async def test_a_node_is_lost_only_if_it_did_not_leave(yard: Yard, left: bool) -> None:
    """The test's own node has no supervisor: its machine belongs to the yard, and is not there."""
    operator, node = await yard.bus(), yard.settings.node
    if left:
        supervisor = await yard.bus(Role.SUPERVISOR)
        await BucketStore(supervisor, buckets.DEPARTURES).put(node, NodeLeft(node=node, at=1.0))
    async with monitor(yard), asyncio.timeout(TIMEOUT_S):
        while True:
            said: Samples = await operator.call(subjects.METRICS_NOW, AskSamples())
            names = {one.name for one in said.samples}
            if "yard_info" in names and ("yard_node_up" in names) is not left:
                break
            await asyncio.sleep(0.02)
