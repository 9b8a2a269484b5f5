"""Several models on a device too small for all of them, with real engines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.files.memory import correct
from modelyard.files.tinymodels import write_babbler
from modelyard.text import format_size
from schemas import buckets, subjects
from schemas.instances import LIVE, Instance, InstanceState, Reason
from schemas.models import ModelRef, ModelSpec
from schemas.placement import MeasuredMemory, PlanQuery
from schemas.profiles import DeviceNeed, Profile
from schemas.registry import DeleteModel, ListModels
from tests.e2e.chat_client import chat, streaming
from tests.e2e.yard_process import InstanceWatch, YardProcess, running_yard, watch_instances, yard_command
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
MEMORY_MIB = 100
MAX_WAIT_S = 4.0
MIN_DWELL_S = 1.0


def on_cpu(memory_mib: int, name: str = "default") -> Profile:
    return Profile(name=name, devices=(DeviceNeed(device="cpu", memory_mib=memory_mib),))


async def put(yard: YardProcess, name: str, memory_mib: int, **fields: Any) -> None:
    fields = {"profiles": (on_cpu(memory_mib),), "n_parallel": 2, "n_ctx": 2048} | fields
    await yard.put(ModelSpec(name=name, path="test/tiny.gguf", **fields))


@contextlib.asynccontextmanager
async def small_yard(folder: Path) -> AsyncIterator[YardProcess]:
    limits = {
        "YARD_MEMORY_LIMITS": f"cpu={MEMORY_MIB}MiB",
        "YARD_SWAP_MAX_WAIT_S": str(MAX_WAIT_S),
        "YARD_SWAP_MIN_DWELL_S": str(MIN_DWELL_S),
    }
    async with running_yard(folder / "home", **limits) as yard:
        (yard.models / "test").mkdir()
        write_babbler(yard.models / "test" / "tiny.gguf")
        yield yard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with small_yard(tmp_path_factory.mktemp("yard")) as yard:
        yield yard


@pytest_asyncio.fixture(loop_scope="module")
async def yard(shared: YardProcess) -> AsyncIterator[YardProcess]:
    """Its models are deleted after the test; their records stay a while, so each test uses its own names."""
    yield shared
    for record in (await shared.bus.call(subjects.MODEL_LIST, ListModels())).models:
        await shared.bus.call(subjects.MODEL_DELETE, DeleteModel(model=record.spec.name, force=True))


def reserved_mib(instances: InstanceWatch) -> int:
    live = [instance for instance in instances.cache.values.values() if instance.state in LIVE]
    return sum(memory.predicted_bytes for instance in live for memory in instance.reserved) // 2**20


def overcommits(instances: InstanceWatch) -> list[str]:
    """Over-committed memory, checked at every later change."""
    violations: list[str] = []

    def check(_key: str, _instance: Instance | None) -> None:
        if (reserved := reserved_mib(instances)) > MEMORY_MIB:
            violations.append(f"{reserved} MiB are reserved")

    instances.cache.listen(check)
    return violations


async def test_an_idle_model_is_evicted_for_a_requested_one(yard: YardProcess) -> None:
    await put(yard, "idle", 80)
    await put(yard, "requested", 80)
    async with watch_instances(yard.bus) as instances:
        violations = overcommits(instances)
        assert (await chat(yard.url, "idle", max_tokens=1))[0] == 200
        before = await instances.until("idle", InstanceState.READY)
        plan = await yard.bus.call(subjects.MODEL_PLAN, PlanQuery(model="requested"))
        assert plan.evicts == ("idle",) or "cannot be evicted now" in plan.text, plan
        assert (await chat(yard.url, "requested", max_tokens=1))[0] == 200
        after = await instances.until("idle", InstanceState.STOPPED)
        assert (after.instance, after.reason) == (before.instance, Reason.EVICTED)
        assert not violations
    plan = await yard.bus.call(subjects.MODEL_PLAN, PlanQuery(model="requested"))
    assert "answers at once" in plan.text


async def test_two_concurrent_starts_with_room_for_one_are_served_in_turn(yard: YardProcess) -> None:
    await put(yard, "left", 80)
    await put(yard, "right", 80)
    async with watch_instances(yard.bus) as instances:
        violations = overcommits(instances)
        answers = await asyncio.gather(*(chat(yard.url, name, max_tokens=2) for name in ("left", "right")))
        assert [status for status, _ in answers] == [200, 200]
        assert not violations


async def test_a_smaller_profile_is_preferred_over_an_eviction(yard: YardProcess) -> None:
    await put(yard, "wide", 60)
    profiles = (on_cpu(80, "large"), Profile(name="small", devices=on_cpu(30).devices, n_parallel=1))
    await put(yard, "flexible", 0, profiles=profiles)
    async with watch_instances(yard.bus) as instances:
        for name in ("wide", "flexible"):
            assert (await chat(yard.url, name, max_tokens=1))[0] == 200
        flexible = await instances.until("flexible", InstanceState.READY)
        assert (flexible.profile, flexible.slots, reserved_mib(instances)) == ("small", 1, 90)
        assert [instance.state for instance in instances.of("wide")] == [InstanceState.READY]


async def test_a_busy_model_is_swapped_for_one_that_waited_long_enough(yard: YardProcess) -> None:
    await put(yard, "busy", 80)
    await put(yard, "other", 80)
    done = asyncio.Event()
    answered: list[int] = []

    async def use() -> None:
        while not done.is_set():
            answered.append((await chat(yard.url, "busy", max_tokens=300))[0])

    assert (await chat(yard.url, "busy", max_tokens=1))[0] == 200
    clients = [asyncio.create_task(use()) for _ in range(3)]
    async with watch_instances(yard.bus) as instances:
        violations = overcommits(instances)
        async with asyncio.timeout(MAX_WAIT_S + 20):
            assert (await chat(yard.url, "other", max_tokens=1))[0] == 200
        before = len(answered)
        await eventually(
            lambda: len(answered) > before, "the busy model answers again", timeout_s=MAX_WAIT_S + 20
        )
        done.set()
        await asyncio.gather(*clients)
        assert set(answered) == {200}, "no request of the busy model was lost"
        assert not violations


async def test_a_model_that_can_never_fit_is_refused_at_once_with_the_reason(yard: YardProcess) -> None:
    await put(yard, "content", 80)
    await put(yard, "huge", 500)
    assert (await chat(yard.url, "content", max_tokens=1))[0] == 200
    status, answer = await asyncio.wait_for(chat(yard.url, "huge", max_tokens=1), 10)
    assert status == 503
    assert (
        "it needs 500.0 MiB on cpu of testnode, which has 100.0 MiB for models" in answer["error"]["message"]
    )
    async with watch_instances(yard.bus) as instances:
        assert [instance.state for instance in instances.of("content")] == [InstanceState.READY], (
            "nothing was evicted in vain"
        )


async def test_pinned_models_are_not_evicted(yard: YardProcess) -> None:
    await put(yard, "pinned", 80, pinned=True)
    await put(yard, "waiter", 80, queue_wait_s=MAX_WAIT_S + 3)
    async with watch_instances(yard.bus) as instances, streaming(yard.url, "pinned", max_tokens=2) as stream:
        await stream.read_rest()
        request = asyncio.create_task(chat(yard.url, "waiter", max_tokens=1))

        async def waiting_line() -> str:
            text = await output(yard, "ps")
            return text if "waiter waits for" in text else ""

        shown = await eventually(waiting_line, "ps shows the waiting model", timeout_s=20, every_s=0.05)
        assert "its memory is held by pinned, which cannot be evicted now" in shown
        status, answer = await request
        assert status == 504
        assert "held by pinned" in answer["error"]["message"]
        assert [instance.state for instance in instances.of("pinned")] == [InstanceState.READY]


async def test_an_edit_restarts_the_instance_after_its_running_requests(yard: YardProcess) -> None:
    await put(yard, "edited", 40)
    async with watch_instances(yard.bus) as instances:
        async with streaming(yard.url, "edited", max_tokens=1500) as stream:
            await stream.read_tokens(5)
            before = await instances.until("edited", InstanceState.READY)
            await put(yard, "edited", 40, queue_max=9)
            await put(yard, "edited", 50)
            assert (await stream.read_rest())[-1] == "[DONE]"
        stopped = await instances.until("edited", InstanceState.STOPPED)
        assert (stopped.instance, stopped.reason) == (before.instance, Reason.REPLACED)
        after = await instances.until("edited", InstanceState.READY)
        assert after.instance != before.instance
        assert reserved_mib(instances) == 50


async def test_a_stopped_autostart_model_stays_stopped_until_a_request(yard: YardProcess) -> None:
    async with watch_instances(yard.bus) as instances:
        await put(yard, "eager", 40, autostart=True, ttl_s=0.5)
        await instances.until("eager", InstanceState.READY)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="eager"))
        await instances.until("eager", InstanceState.STOPPED)
        assert (await chat(yard.url, "eager", max_tokens=1))[0] == 200
        await put(yard, "eager", 40, ttl_s=0.5)
        async with asyncio.timeout(20):
            await instances.cache.until(lambda _: any(i.reason is Reason.IDLE for i in instances.of("eager")))


async def output(yard: YardProcess, *arguments: str) -> str:
    """The output of a successful command."""
    code, out, err = await yard_command(yard, *arguments)
    assert code == 0, err
    return out


async def test_groups_keep_models_apart_or_start_them_together(yard: YardProcess) -> None:
    for name in ("one", "two", "three"):
        await put(yard, name, 20)
    text = await output(yard, "group", "rivals", "--apart", "one", "two")
    assert text == "The group rivals holds from now on.\n"
    await output(yard, "group", "friends", "--together", "two", "three")
    assert "friends  together  two, three" in await output(yard, "groups")
    async with watch_instances(yard.bus) as instances:
        assert (await chat(yard.url, "one", max_tokens=1))[0] == 200
        assert "would evict one" in (plan := await output(yard, "plan", "two")) or "stays" in plan
        assert (await chat(yard.url, "two", max_tokens=1))[0] == 200
        await instances.until("three", InstanceState.READY)
        assert (await instances.until("one", InstanceState.STOPPED)).reason is Reason.EVICTED
    await output(yard, "group", "rivals", "--remove")
    assert "rivals" not in await output(yard, "groups")


async def test_measured_memory_corrects_the_next_estimate(tmp_path: Path) -> None:
    async with small_yard(tmp_path) as yard:
        await put(yard, "weighed", 0, profiles=())
        async with Tasks() as tasks, watch_instances(yard.bus) as instances:
            memory: BucketCache[MeasuredMemory] = await BucketCache.start(yard.bus, buckets.MEMORY, tasks)
            assert (await chat(yard.url, "weighed", max_tokens=1))[0] == 200
            async with asyncio.timeout(30):
                await instances.cache.until(
                    lambda _: any(measured(instance) for instance in instances.of("weighed"))
                )
            (before,) = instances.of("weighed")
            await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="weighed"))
            async with asyncio.timeout(30):
                await memory.until(lambda values: bool(values))
            (record,) = memory.values.values()
            used, estimated = record.uses[-1].used_bytes, before.reserved[0].predicted_bytes
            assert used >= (measured(before) or 0)
            assert record.load_s == before.load_s
            expected = correct(estimated, [used])
            assert expected != estimated
            # The scheduler queries the options of a node again after some seconds.

            async def is_corrected() -> bool:
                return f"with {format_size(expected)} of cpu" in await output(yard, "plan", "weighed")

            await eventually(is_corrected, "the estimate is corrected", timeout_s=30, every_s=0.2)
            assert (await chat(yard.url, "weighed", max_tokens=1))[0] == 200
            assert expected in [instance.reserved[0].predicted_bytes for instance in instances.of("weighed")]


def measured(instance: Instance) -> int | None:
    return instance.reserved[0].measured_bytes if instance.reserved else None
