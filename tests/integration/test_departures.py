"""A node that leaves on purpose is no lost node: it raises no alert."""

import pytest

from modelyard.bus.records import BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.instances import ClearNode, Node, NodeLeft
from schemas.metrics import GetSamples, Samples
from services.supervisor.service import main
from tests.integration.monitor_service import monitor
from tests.support import Yard, eventually

TIMEOUT_S = 8.0


async def wait_for_records(yard: Yard, node: str, *, present: bool, left: bool) -> None:
    """Wait until the record of the node, and that of its departure, exist or not."""
    bus = await yard.bus()
    nodes: BucketStore[Node] = BucketStore(bus, buckets.NODES)
    departures: BucketStore[NodeLeft] = BucketStore(bus, buckets.DEPARTURES)

    async def is_so() -> bool:
        return (await nodes.get(node) is not None, await departures.get(node) is not None) == (present, left)

    await eventually(is_so, f"{present=}, {left=}", timeout_s=TIMEOUT_S)


async def test_a_cleared_node_has_left_until_it_is_back(yard: Yard, settings: Settings) -> None:
    operator, node = await yard.bus(), settings.node
    events = await operator.nc.subscribe(subjects.NODE_LEFT(node=node))
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        await wait_for_records(yard, node, present=True, left=False)
        await operator.call(subjects.NODE_CLEAR, ClearNode(drain_s=0), node=node, timeout_s=10)
        await wait_for_records(yard, node, present=False, left=True)
        event = subjects.NODE_LEFT.decode((await events.next_msg(timeout=3)).data)
        assert event.node == node
    async with Tasks() as tasks:
        await main(await yard.bus(Role.SUPERVISOR), settings, tasks)
        await wait_for_records(yard, node, present=True, left=False)


@pytest.mark.parametrize("left", [True, False])
async def test_a_node_is_lost_unless_it_left_on_purpose(yard: Yard, left: bool) -> None:
    """The test's own node has no supervisor: it belongs to the yard, and has no record."""
    operator, node = await yard.bus(), yard.settings.node
    if left:
        supervisor = await yard.bus(Role.SUPERVISOR)
        await BucketStore(supervisor, buckets.DEPARTURES).put(node, NodeLeft(node=node, at=1.0))

    async def is_so() -> bool:
        answer: Samples = await operator.call(subjects.METRICS_NOW, GetSamples())
        names = {sample.name for sample in answer.samples}
        return "yard_info" in names and ("yard_node_up" in names) is not left

    async with monitor(yard):
        await eventually(is_so, f"yard_node_up unless {left=}", timeout_s=TIMEOUT_S)
