"""A yard on two machines: joining, placement, and the loss of a machine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.cli.nodes import row_of
from modelyard.files.tinymodels import write_reciter
from modelyard.host.home import Membership
from schemas import buckets, subjects
from schemas.instances import InstanceState, NodeLeft
from schemas.leases import SCHEDULER
from schemas.library import FindOnNode
from schemas.models import ModelSpec
from schemas.placement import Cordon
from schemas.profiles import DeviceNeed, Profile
from tests.e2e.chat_client import chat, streaming
from tests.e2e.machines import (
    Cable,
    first_machine,
    second_machine,
    two_machines,
    unavailable_reason,
    yard_output,
)
from tests.e2e.models import link_model_file, scripted_model, write_tiny_model
from tests.e2e.yard_process import YardProcess, running_yard, watch_instances
from tests.hub import Hub
from tests.support import held_still

_UNAVAILABLE = unavailable_reason()
pytestmark = [
    pytest.mark.skipif(_UNAVAILABLE is not None, reason=str(_UNAVAILABLE)),
    pytest.mark.timeout(180),
]
GONE_S = 10.0
"""A vanished machine has lost its instances after this time."""
BACK_S = 30.0
TOKENS = 600
"""More than the slow model generates before the test acts on its machine."""
S = InstanceState


@pytest.fixture
def cable() -> Iterator[Cable]:
    with two_machines() as cable:
        yield cable


@pytest.fixture
async def a(tmp_path: Path, cable: Cable) -> AsyncIterator[YardProcess]:
    async with first_machine(tmp_path / "a", cable) as yard:
        yield yard


async def test_a_model_runs_on_the_node_with_its_file(a: YardProcess, cable: Cable, tmp_path: Path) -> None:
    async with second_machine(tmp_path / "b", a, cable) as b:
        await a.put(write_tiny_model(b.home, "far"))
        await a.put(msgspec.structs.replace(write_tiny_model(tmp_path / "nowhere", "missing")))
        status, body = await chat(a.url, "far", max_tokens=4)
        assert status == 200, body
        async with watch_instances(a.bus) as instances:
            assert (await instances.until("far", S.READY)).node == "b"
        status, body = await chat(a.url, "missing")
        assert (status, body["error"]["code"]) == (503, "model_start_failed")
        assert "test/missing.gguf" in body["error"]["message"]
        assert "not in the store" in body["error"]["message"]
    # It left on purpose: its departure is recorded.
    departures: BucketStore[NodeLeft] = BucketStore(a.bus, buckets.DEPARTURES)
    assert (await departures.get("b")) is not None
    assert [row["node"] for row in await listed(a, 1)] == ["a"]


async def test_files_of_a_model_are_fetched_from_the_other_machine(tmp_path: Path, cable: Cable) -> None:
    write_reciter(tmp_path / "small.gguf", "From machine to machine.")
    async with Hub() as hub, first_machine(tmp_path / "a", cable, HF_ENDPOINT=hub.url) as a:
        hub.add_repo("tiny/small-GGUF", {"small-Q8_0.gguf": tmp_path / "small.gguf"})
        async with second_machine(tmp_path / "b", a, cable) as b:
            assert "is in the yard. " in await yard_output(a, "pull", "tiny/small-GGUF")
            sent = hub.file("tiny/small-GGUF", "small-Q8_0.gguf").bytes_sent
            # The second machine cannot reach the hub: the listing comes from the first, too.
            assert " from a. " in await yard_output(a, "pull", "tiny/small-GGUF", "--node", "b")
            path = "tiny/small-GGUF/small-Q8_0.gguf"
            assert (b.models / path).read_bytes() == (a.models / path).read_bytes()
            write_tiny_model(a.home, "mine")
            await a.bus.call(subjects.LIBRARY_SCAN, FindOnNode(node="a"))
            assert " from a." in await yard_output(a, "library", "copy", "test/mine.gguf", "--node", "b")
            assert (b.models / "test/mine.gguf").read_bytes() == (a.models / "test/mine.gguf").read_bytes()
            assert hub.file("tiny/small-GGUF", "small-Q8_0.gguf").bytes_sent == sent
            await yard_output(a, "cordon", "a")
            status, body = await chat(a.url, "tiny/small-GGUF", max_tokens=40)
            assert (status, body["choices"][0]["message"]["content"]) == (200, "From machine to machine.")


async def test_a_model_runs_on_the_node_with_room_and_nodes_can_be_drained(
    tmp_path: Path, cable: Cable
) -> None:
    async with (
        first_machine(tmp_path / "a", cable, YARD_MEMORY_LIMITS="cpu=1MiB") as a,
        second_machine(tmp_path / "b", a, cable, a.nats_url) as b,
    ):
        await a.put(write_tiny_model(a.home, "both"))
        write_tiny_model(b.home, "both")
        assert (await chat(a.url, "both", max_tokens=4))[0] == 200
        async with watch_instances(a.bus) as instances:
            assert (await instances.until("both", S.READY)).node == "b"
            rows = {row["node"]: row for row in await listed(a)}
            assert rows["a"]["devices"][0]["memory_bytes"] == 2**20
            assert rows["b"]["devices"][0]["reserved_bytes"] > 2**20
            assert [instance["model"] for instance in rows["b"]["instances"]] == ["both"]
            await yard_output(a, "drain", "b")
            await instances.until("both", S.STOPPED)
            assert [row["cordoned"] for row in await listed(a)] == [False, True]
            assert "cordoned" in await yard_output(a, "nodes", "--no-look")
            await yard_output(a, "uncordon", "b")
            assert (await chat(a.url, "both", max_tokens=4))[0] == 200
            assert (await instances.until("both", S.READY)).node == "b"
        assert "no node 'c'" in await yard_output(a, "cordon", "c", code=1)


async def test_yards_discover_each_other_by_mdns(a: YardProcess, cable: Cable, tmp_path: Path) -> None:
    async with second_machine(tmp_path / "b", a, cable) as b:
        url = a.nats_url
    membership = tmp_path / "b" / "keys" / "membership.json"
    remembered = msgspec.json.decode(membership.read_bytes(), type=Membership)
    assert remembered.nats_url == url
    membership.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(remembered, nats_url="nats://10.177.0.9:1"))
    )
    options = {"preexec_fn": lambda: cable.move_in("b"), "YARD_NODE": "b"}
    async with running_yard(tmp_path / "b", "--join", **options) as b:  # type: ignore[arg-type]
        assert b.nats_url == url, "found despite a wrong remembered address"
    other = {"preexec_fn": lambda: cable.move_in("b"), "YARD_NODE": "stranger"}
    async with running_yard(tmp_path / "c", "--listen", cable.b, **other) as stranger:  # type: ignore[arg-type]
        nodes_report = json.loads(await yard_output(a, "nodes", "--json"))
        assert [(found["node"], found["nats_url"]) for found in nodes_report["other_yards"]] == [
            ("stranger", stranger.nats_url)
        ]


@pytest.mark.parametrize("way", ["killed", "cut off"])
async def test_instances_of_a_vanished_machine_are_started_on_the_other(
    a: YardProcess, cable: Cable, tmp_path: Path, slow_gguf: Path, way: str
) -> None:
    async with second_machine(tmp_path / "b", a, cable) as b, watch_instances(a.bus) as instances:
        for yard in (a, b):
            link_model_file(slow_gguf, yard.home, "slow")
        await a.put(ModelSpec(name="slow", path="test/slow.gguf", n_ctx=2048, n_parallel=1))
        await yard_output(a, "cordon", "a")
        async with streaming(a.url, "slow", max_tokens=TOKENS) as stream:
            await stream.read_tokens(3)
            lost = await instances.until("slow", S.READY)
            assert lost.node == "b"
            await a.bus.call(subjects.NODE_CORDON, Cordon(cordoned=False), node="a")
            await stream.read_tokens(3)
            began = time.monotonic()
            if way == "killed":
                await b.kill_everything()
            else:
                cable.cut()
            async with asyncio.timeout(GONE_S):
                await instances.cache.until(lambda values: lost.instance not in values)
            gone_s = time.monotonic() - began
            async with asyncio.timeout(20):
                await instances.cache.until(
                    lambda _: any(instance.node == "a" for instance in instances.of("slow"))
                )
            planned_s = time.monotonic() - began
            lines = await stream.read_rest()
            print(f"{way}: expired after {gone_s:.1f} s, started on the other after {planned_s:.1f} s")  # noqa: T201
            assert lines[-1] == "[DONE]", stream.error
            assert planned_s < GONE_S
        if way == "cut off":
            await assert_reconnects(a, cable, lost.instance, began)


async def test_the_lease_of_a_cut_off_scheduler_moves_to_the_other_machine(
    a: YardProcess, cable: Cable, tmp_path: Path, slow_gguf: Path
) -> None:
    async with (
        second_machine(tmp_path / "b", a, cable) as b,
        watch_instances(a.bus) as instances,
        leases(a) as leases_cache,
    ):
        await move_lease(leases_cache, a, "b")
        for yard in (a, b):
            link_model_file(slow_gguf, yard.home, "slow")
        await a.put(ModelSpec(name="slow", path="test/slow.gguf", n_ctx=2048, n_parallel=1))
        await yard_output(a, "cordon", "a")
        async with streaming(a.url, "slow", max_tokens=TOKENS) as stream:
            await stream.read_tokens(3)
            assert [instance.node for instance in instances.of("slow")] == ["b"]
            await a.bus.call(subjects.NODE_CORDON, Cordon(cordoned=False), node="a")
            began = time.monotonic()
            cable.cut()
            async with asyncio.timeout(20):
                await leases_cache.until(lambda values: values and values[SCHEDULER].holder == "a")
                lease_s = time.monotonic() - began
                await instances.cache.until(
                    lambda _: any(instance.node == "a" for instance in instances.of("slow"))
                )
            planned_s = time.monotonic() - began
            assert (await stream.read_rest())[-1] == "[DONE]", stream.error
            print(f"the lease moved after {lease_s:.1f} s, started on the other after {planned_s:.1f} s")  # noqa: T201
            assert planned_s < GONE_S
        cable.plug()
        # It must reconnect and be able to take the lease again.
        async with nodes(a) as known, asyncio.timeout(20):
            await known.until(lambda values: "b" in values)
        await move_lease(leases_cache, a, "b")
        assert (await chat(a.url, "slow", max_tokens=1))[0] == 200


async def move_lease(leases_cache: BucketCache[Any], holder: YardProcess, node: str) -> None:
    """Suspend the supervisor that holds the lease until the other machine has taken it."""
    async with held_still(holder.service("supervisor").pid), asyncio.timeout(15):
        began = time.monotonic()
        await leases_cache.until(lambda values: SCHEDULER in values and values[SCHEDULER].holder == node)
        print(f"a suspended scheduler was replaced after {time.monotonic() - began:.1f} s")  # noqa: T201


async def assert_reconnects(a: YardProcess, cable: Cable, lost: str, began: float) -> None:
    """A machine that was cut off reconnects idle, and the yard answers all the time."""
    async with watch_instances(a.bus) as instances, nodes(a) as known:
        while time.monotonic() - began < BACK_S:
            assert (await chat(a.url, "slow", max_tokens=1))[0] == 200
        assert "b" not in known.values
        cable.plug()
        async with asyncio.timeout(20):
            await known.until(lambda values: "b" in values)
            await instances.cache.until(lambda values: lost in values and values[lost].busy == 0)
        answers = await asyncio.gather(*(chat(a.url, "slow", max_tokens=2) for _ in range(3)))
        assert [status for status, _ in answers] == [200] * 3
        await a.bus.call(subjects.MODEL_STOP, subjects.MODEL_STOP.payload(model="slow"))
        async with asyncio.timeout(30):
            await instances.cache.until(
                lambda _: all(instance.state is S.STOPPED for instance in instances.of("slow"))
            )


async def test_a_scheduler_killed_during_a_swap_delays_the_waiting_request_briefly(
    tmp_path: Path, cable: Cable
) -> None:
    """The resident model streams for 10 s: it neither ends before the swap begins, nor delays it for long."""
    fast_swap = {"YARD_SWAP_MAX_WAIT_S": "1", "YARD_SWAP_MIN_DWELL_S": "0"}
    async with (
        first_machine(tmp_path / "a", cable, YARD_MEMORY_LIMITS="cpu=100MiB", **fast_swap) as a,
        second_machine(tmp_path / "b", a, cable, YARD_MEMORY_LIMITS="cpu=1MiB", **fast_swap) as b,
        watch_instances(a.bus) as instances,
        leases(a) as leases_cache,
    ):
        await move_lease(leases_cache, a, "b")
        needs = (Profile(name="cpu", devices=(DeviceNeed(device="cpu", memory_mib=80),)),)
        await a.put(scripted_model("resident", "paced", n_parallel=1, profiles=needs))
        await a.put(msgspec.structs.replace(write_tiny_model(a.home, "waiter"), profiles=needs))
        paced = [{"role": "user", "content": "PACED"}]
        async with streaming(a.url, "resident", messages=paced) as stream:
            await stream.read_tokens(3)
            waiting = asyncio.create_task(chat(a.url, "waiter", max_tokens=4))
            await instances.until("resident", S.DRAINING)
            began = time.monotonic()
            await b.kill_everything()
            async with asyncio.timeout(GONE_S):
                await leases_cache.until(
                    lambda values: SCHEDULER in values and values[SCHEDULER].holder == "a"
                )
            print(f"the lease was taken over after {time.monotonic() - began:.1f} s")  # noqa: T201
            assert (await stream.read_rest())[-1] == "[DONE]", stream.error
        status, body = await asyncio.wait_for(waiting, 30)
        assert status == 200, body


async def listed(yard: YardProcess, count: int = 2) -> list[dict[str, Any]]:
    """The rows of `yard nodes`, once `count` nodes are present."""
    async with watch_instances(yard.bus) as instances, nodes(yard) as known, asyncio.timeout(20):
        await known.until(lambda values: len(values) == count)
        all_instances = instances.cache.values.values()
        return [row_of(node, all_instances) for _, node in sorted(known.values.items())]


class _Following:
    """A bucket cache that follows inside the block."""

    def __init__(self, yard: YardProcess, bucket: buckets.Bucket[Any]) -> None:
        self._yard = yard
        self._bucket = bucket
        self._tasks = Tasks()

    async def __aenter__(self) -> BucketCache[Any]:
        await self._tasks.__aenter__()
        return await BucketCache.start(self._yard.bus, self._bucket, self._tasks)

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.__aexit__(None, None, None)


def nodes(yard: YardProcess) -> _Following:
    return _Following(yard, buckets.NODES)


def leases(yard: YardProcess) -> _Following:
    return _Following(yard, buckets.LEASES)
