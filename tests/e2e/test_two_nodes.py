"""Two machines, one yard: joining, placement, and what is left when one of them is gone."""

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
from modelyard.host.home import Membership
from modelyard.tinymodels import write_reciter
from schemas import buckets, subjects
from schemas.instances import InstanceState, NodeLeft
from schemas.leases import SCHEDULER
from schemas.library import AskNode
from schemas.models import ModelSpec
from schemas.placing import Cordon
from schemas.profiles import DeviceNeed, Profile
from tests.e2e.chatting import chat, streaming
from tests.e2e.machines import Cable, command, first, second, share, tiny, two_machines, why_not
from tests.e2e.yard_process import YardProcess, running_yard, watching
from tests.hub import Hub
from tests.support import held_still

_WHY_NOT = why_not()
pytestmark = [
    pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT)),
    pytest.mark.timeout(180),
]
GONE_S = 10.0
"""A machine that vanished has lost its instances after so long."""
BACK_S = 30.0
TOKENS = 600
"""More than the slow model says before the test has done what it does to its machine."""
S = InstanceState


@pytest.fixture
def cable() -> Iterator[Cable]:
    with two_machines() as cable:
        yield cable


@pytest.fixture
async def a(tmp_path: Path, cable: Cable) -> AsyncIterator[YardProcess]:
    async with first(tmp_path / "a", cable) as yard:
        yield yard


async def test_a_model_runs_where_its_file_is(a: YardProcess, cable: Cable, tmp_path: Path) -> None:
    async with second(tmp_path / "b", a, cable) as b:
        await a.put(tiny(b.home, "far"))
        await a.put(msgspec.structs.replace(tiny(tmp_path / "elsewhere", "lost")))
        status, body = await chat(a.url, "far", max_tokens=4)
        assert status == 200, body
        async with watching(a.bus) as instances:
            assert (await instances.until("far", S.READY)).node == "b"
        status, body = await chat(a.url, "lost")
        assert (status, body["error"]["code"]) == (503, "model_start_failed")
        assert "test/lost.gguf" in body["error"]["message"]
        assert "not in the store" in body["error"]["message"]
    # It was switched off in order: that is known, and no machine to look for.
    kept: BucketStore[NodeLeft] = BucketStore(a.bus, buckets.DEPARTURES)
    assert (await kept.get("b")) is not None
    assert [row["node"] for row in await listed(a, 1)] == ["a"]


async def test_a_model_that_one_machine_has_comes_from_it_to_the_other(tmp_path: Path, cable: Cable) -> None:
    write_reciter(tmp_path / "small.gguf", "From machine to machine.")
    async with Hub() as hub, first(tmp_path / "a", cable, HF_ENDPOINT=hub.url) as a:
        hub.add_repo("tiny/small-GGUF", {"small-Q8_0.gguf": tmp_path / "small.gguf"})
        async with second(tmp_path / "b", a, cable) as b:
            assert "is in the yard. " in await command(a, "pull", "tiny/small-GGUF")
            sent = hub.file("tiny/small-GGUF", "small-Q8_0.gguf").bytes_sent
            # The second machine has no way to the hub: also what there is to fetch comes from the first.
            assert " from a. " in await command(a, "pull", "tiny/small-GGUF", "--node", "b")
            path = "tiny/small-GGUF/small-Q8_0.gguf"
            assert (b.models / path).read_bytes() == (a.models / path).read_bytes()
            tiny(a.home, "mine")
            await a.bus.call(subjects.LIBRARY_SCAN, AskNode(node="a"))
            assert " from a." in await command(a, "library", "copy", "test/mine.gguf", "--node", "b")
            assert (b.models / "test/mine.gguf").read_bytes() == (a.models / "test/mine.gguf").read_bytes()
            assert hub.file("tiny/small-GGUF", "small-Q8_0.gguf").bytes_sent == sent
            await command(a, "cordon", "a")
            status, body = await chat(a.url, "tiny/small-GGUF", max_tokens=40)
            assert (status, body["choices"][0]["message"]["content"]) == (200, "From machine to machine.")


async def test_a_model_runs_where_there_is_room_and_machines_can_be_set_aside(
    tmp_path: Path, cable: Cable
) -> None:
    async with (
        first(tmp_path / "a", cable, YARD_MEMORY_LIMITS="cpu=1MiB") as a,
        second(tmp_path / "b", a, cable, a.nats_url) as b,
    ):
        await a.put(tiny(a.home, "both"))
        tiny(b.home, "both")
        assert (await chat(a.url, "both", max_tokens=4))[0] == 200
        async with watching(a.bus) as instances:
            assert (await instances.until("both", S.READY)).node == "b"
            rows = {row["node"]: row for row in await listed(a)}
            assert rows["a"]["devices"][0]["memory_bytes"] == 2**20
            assert rows["b"]["devices"][0]["reserved_bytes"] > 2**20
            assert [one["model"] for one in rows["b"]["instances"]] == ["both"]
            await command(a, "drain", "b")
            await instances.until("both", S.STOPPED)
            assert [row["cordoned"] for row in await listed(a)] == [False, True]
            foreseen = await command(a, "nodes", "--no-look")
            assert "cordoned" in foreseen
            await command(a, "uncordon", "b")
            assert (await chat(a.url, "both", max_tokens=4))[0] == 200
            assert (await instances.until("both", S.READY)).node == "b"
        assert "no node 'c'" in await command(a, "cordon", "c", code=1)


async def test_yards_find_each_other_on_the_network(a: YardProcess, cable: Cable, tmp_path: Path) -> None:
    async with second(tmp_path / "b", a, cable) as b:
        url = a.nats_url
    membership = tmp_path / "b" / "keys" / "membership.json"
    known = msgspec.json.decode(membership.read_bytes(), type=Membership)
    assert known.nats_url == url
    membership.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(known, nats_url="nats://10.177.0.9:1"))
    )
    again = {"preexec_fn": lambda: cable.move_in("b"), "YARD_NODE": "b"}
    async with running_yard(tmp_path / "b", "--join", **again) as b:  # type: ignore[arg-type]
        assert b.nats_url == url, "found, though it was remembered wrongly"
    other = {"preexec_fn": lambda: cable.move_in("b"), "YARD_NODE": "stranger"}
    async with running_yard(tmp_path / "c", "--listen", cable.b, **other) as stranger:  # type: ignore[arg-type]
        told = json.loads(await command(a, "nodes", "--json"))
        assert [(one["node"], one["nats_url"]) for one in told["elsewhere"]] == [
            ("stranger", stranger.nats_url)
        ]


@pytest.mark.parametrize("way", ["killed", "cut off"])
async def test_a_vanished_machine_loses_its_work_to_the_other(
    a: YardProcess, cable: Cable, tmp_path: Path, slow_gguf: Path, way: str
) -> None:
    async with second(tmp_path / "b", a, cable) as b, watching(a.bus) as instances:
        for yard in (a, b):
            share(slow_gguf, yard.home, "slow")
        await a.put(ModelSpec(name="slow", path="test/slow.gguf", n_ctx=2048, n_parallel=1))
        await command(a, "cordon", "a")
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
                await instances.mirror.until(lambda values: lost.instance not in values)
            gone_s = time.monotonic() - began
            async with asyncio.timeout(20):
                await instances.mirror.until(lambda _: any(one.node == "a" for one in instances.of("slow")))
            planned_s = time.monotonic() - began
            lines = await stream.read_rest()
            print(f"{way}: gone after {gone_s:.1f} s, elsewhere after {planned_s:.1f} s")  # noqa: T201
            assert lines[-1] == "[DONE]", stream.error
            assert planned_s < GONE_S
        if way == "cut off":
            await comes_back(a, cable, lost.instance, began)


async def test_a_scheduler_that_is_cut_off_with_its_instance_is_followed_by_the_other(
    a: YardProcess, cable: Cable, tmp_path: Path, slow_gguf: Path
) -> None:
    async with (
        second(tmp_path / "b", a, cable) as b,
        watching(a.bus) as instances,
        leases(a) as held,
    ):
        await decides(held, a, "b")
        for yard in (a, b):
            share(slow_gguf, yard.home, "slow")
        await a.put(ModelSpec(name="slow", path="test/slow.gguf", n_ctx=2048, n_parallel=1))
        await command(a, "cordon", "a")
        async with streaming(a.url, "slow", max_tokens=TOKENS) as stream:
            await stream.read_tokens(3)
            assert [one.node for one in instances.of("slow")] == ["b"]
            await a.bus.call(subjects.NODE_CORDON, Cordon(cordoned=False), node="a")
            began = time.monotonic()
            cable.cut()
            async with asyncio.timeout(20):
                await held.until(lambda values: values and values[SCHEDULER].holder == "a")
                lease_s = time.monotonic() - began
                await instances.mirror.until(lambda _: any(one.node == "a" for one in instances.of("slow")))
            planned_s = time.monotonic() - began
            assert (await stream.read_rest())[-1] == "[DONE]", stream.error
            print(f"another decides after {lease_s:.1f} s, elsewhere after {planned_s:.1f} s")  # noqa: T201
            assert planned_s < GONE_S
        cable.plug()
        # It has to find its way back, and be able to decide again.
        async with nodes(a) as known, asyncio.timeout(20):
            await known.until(lambda values: "b" in values)
        await decides(held, a, "b")
        assert (await chat(a.url, "slow", max_tokens=1))[0] == 200


async def decides(held: BucketCache[Any], hung: YardProcess, node: str) -> None:
    """Have another machine take the lease, from a supervisor that hangs."""
    async with held_still(hung.service("supervisor").pid), asyncio.timeout(15):
        began = time.monotonic()
        await held.until(lambda values: SCHEDULER in values and values[SCHEDULER].holder == node)
        print(f"a hung scheduler was replaced after {time.monotonic() - began:.1f} s")  # noqa: T201


async def comes_back(a: YardProcess, cable: Cable, lost: str, began: float) -> None:
    """What was only cut off is there again, does nobody's work, and the yard answers all the time."""
    async with watching(a.bus) as instances, nodes(a) as known:
        while time.monotonic() - began < BACK_S:
            assert (await chat(a.url, "slow", max_tokens=1))[0] == 200
        assert "b" not in known.values
        cable.plug()
        async with asyncio.timeout(20):
            await known.until(lambda values: "b" in values)
            await instances.mirror.until(lambda values: lost in values and values[lost].busy == 0)
        answers = await asyncio.gather(*(chat(a.url, "slow", max_tokens=2) for _ in range(3)))
        assert [status for status, _ in answers] == [200] * 3
        await a.bus.call(subjects.MODEL_STOP, subjects.MODEL_STOP.payload(model="slow"))
        async with asyncio.timeout(30):
            await instances.mirror.until(
                lambda _: all(one.state is S.STOPPED for one in instances.of("slow"))
            )


async def test_the_death_of_the_scheduler_in_a_swap_delays_nobody_for_long(
    tmp_path: Path, cable: Cable, slow_gguf: Path
) -> None:
    hurry = {"YARD_SWAP_MAX_WAIT_S": "1", "YARD_SWAP_MIN_DWELL_S": "0"}
    async with (
        first(tmp_path / "a", cable, YARD_MEMORY_LIMITS="cpu=100MiB", **hurry) as a,
        second(tmp_path / "b", a, cable, YARD_MEMORY_LIMITS="cpu=1MiB", **hurry) as b,
        watching(a.bus) as instances,
        leases(a) as held,
    ):
        await decides(held, a, "b")
        share(slow_gguf, a.home, "slow")
        needs = Profile(name="cpu", devices=(DeviceNeed(device="cpu", memory_mib=80),))
        await a.put(ModelSpec(name="slow", path="test/slow.gguf", n_parallel=1, profiles=(needs,)))
        await a.put(msgspec.structs.replace(tiny(a.home, "waiter"), profiles=(needs,)))
        async with streaming(a.url, "slow", max_tokens=100) as stream:
            await stream.read_tokens(3)
            waiting = asyncio.create_task(chat(a.url, "waiter", max_tokens=4))
            await instances.until("slow", S.DRAINING)
            began = time.monotonic()
            await b.kill_everything()
            async with asyncio.timeout(GONE_S):
                await held.until(lambda values: SCHEDULER in values and values[SCHEDULER].holder == "a")
            print(f"the lease was taken over after {time.monotonic() - began:.1f} s")  # noqa: T201
            assert (await stream.read_rest())[-1] == "[DONE]", stream.error
        status, body = await asyncio.wait_for(waiting, 30)
        assert status == 200, body


async def listed(yard: YardProcess, count: int = 2) -> list[dict[str, Any]]:
    """As `yard nodes` tells it, once so many have told about themselves."""
    async with watching(yard.bus) as instances, nodes(yard) as known, asyncio.timeout(20):
        await known.until(lambda values: len(values) == count)
        own = instances.mirror.values.values()
        return [row_of(node, own) for _, node in sorted(known.values.items())]


class _Mirrored:
    """A bucket, followed inside the block."""

    def __init__(self, yard: YardProcess, bucket: buckets.Bucket[Any]) -> None:
        self._yard = yard
        self._bucket = bucket
        self._tasks = Tasks()

    async def __aenter__(self) -> BucketCache[Any]:
        await self._tasks.__aenter__()
        return await BucketCache.start(self._yard.bus, self._bucket, self._tasks)

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.__aexit__(None, None, None)


def nodes(yard: YardProcess) -> _Mirrored:
    return _Mirrored(yard, buckets.NODES)


def leases(yard: YardProcess) -> _Mirrored:
    return _Mirrored(yard, buckets.LEASES)
