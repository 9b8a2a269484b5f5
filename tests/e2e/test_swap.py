"""Several models on less memory than they need together: real engines on a small device."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.gguf.measured import Measured, correct
from modelyard.tinymodels import write_babbler
from schemas import buckets, subjects
from schemas.instances import LIVE, Instance, InstanceState, Reason
from schemas.models import ModelRef, ModelSpec
from schemas.placing import MeasuredMemory, PlanQuery
from schemas.profiles import DeviceNeed, Profile
from schemas.registry import DeleteModel, ListModels
from services.supervisor.planning.memory_budget import format_size
from tests.e2e.chatting import chat, streaming
from tests.e2e.yard_process import Watching, YardProcess, running_yard, watching, yard_command

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
    """Its models are gone after the test; what is told of them stays a while, so each test has own names."""
    yield shared
    for record in (await shared.bus.call(subjects.MODEL_LIST, ListModels())).models:
        await shared.bus.call(subjects.MODEL_DELETE, DeleteModel(model=record.spec.name, force=True))


def reserved_mib(instances: Watching) -> int:
    living = [one for one in instances.mirror.values.values() if one.state in LIVE]
    return sum(memory.predicted_bytes for one in living for memory in one.reserved) // 2**20


def never_too_much(instances: Watching) -> list[str]:
    """Looks at every change from now on; what was wrong."""
    wrong: list[str] = []

    def look(_key: str, _instance: Instance | None) -> None:
        if (held := reserved_mib(instances)) > MEMORY_MIB:
            wrong.append(f"{held} MiB are reserved")

    instances.mirror.listen(look)
    return wrong


async def test_an_idle_model_makes_room_for_one_that_is_asked_for(yard: YardProcess) -> None:
    await put(yard, "idle", 80)
    await put(yard, "asked", 80)
    async with watching(yard.bus) as instances:
        wrong = never_too_much(instances)
        assert (await chat(yard.url, "idle", max_tokens=1))[0] == 200
        before = await instances.until("idle", InstanceState.READY)
        foreseen = await yard.bus.call(subjects.MODEL_PLAN, PlanQuery(model="asked"))
        assert foreseen.evicts == ("idle",) or "cannot be evicted now" in foreseen.text, foreseen
        assert (await chat(yard.url, "asked", max_tokens=1))[0] == 200
        after = await instances.until("idle", InstanceState.STOPPED)
        assert (after.instance, after.reason) == (before.instance, Reason.EVICTED)
        assert not wrong
    told = await yard.bus.call(subjects.MODEL_PLAN, PlanQuery(model="asked"))
    assert "answers at once" in told.text


async def test_two_starts_at_once_on_room_for_one_are_served_one_after_the_other(yard: YardProcess) -> None:
    await put(yard, "left", 80)
    await put(yard, "right", 80)
    async with watching(yard.bus) as instances:
        wrong = never_too_much(instances)
        answers = await asyncio.gather(*(chat(yard.url, name, max_tokens=2) for name in ("left", "right")))
        assert [status for status, _ in answers] == [200, 200]
        assert not wrong


async def test_a_smaller_profile_is_taken_before_anybody_has_to_go(yard: YardProcess) -> None:
    await put(yard, "wide", 60)
    profiles = (on_cpu(80, "large"), Profile(name="small", devices=on_cpu(30).devices, n_parallel=1))
    await put(yard, "flexible", 0, profiles=profiles)
    async with watching(yard.bus) as instances:
        for name in ("wide", "flexible"):
            assert (await chat(yard.url, name, max_tokens=1))[0] == 200
        flexible = await instances.until("flexible", InstanceState.READY)
        assert (flexible.profile, flexible.slots, reserved_mib(instances)) == ("small", 1, 90)
        assert [one.state for one in instances.of("wide")] == [InstanceState.READY]


async def test_a_model_in_steady_use_yields_to_who_waited_long_enough(yard: YardProcess) -> None:
    await put(yard, "busy", 80)
    await put(yard, "other", 80)
    done = asyncio.Event()
    answered: list[int] = []

    async def use() -> None:
        while not done.is_set():
            answered.append((await chat(yard.url, "busy", max_tokens=300))[0])

    assert (await chat(yard.url, "busy", max_tokens=1))[0] == 200
    clients = [asyncio.create_task(use()) for _ in range(3)]
    async with watching(yard.bus) as instances:
        wrong = never_too_much(instances)
        async with asyncio.timeout(MAX_WAIT_S + 20):
            assert (await chat(yard.url, "other", max_tokens=1))[0] == 200
        before = len(answered)
        async with asyncio.timeout(MAX_WAIT_S + 20):
            while len(answered) == before:
                await instances.until("busy", InstanceState.READY)
                await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*clients)
        assert set(answered) == {200}, "nobody who was in use lost a request"
        assert not wrong


async def test_a_model_that_can_never_fit_is_refused_at_once_with_the_reason(yard: YardProcess) -> None:
    await put(yard, "content", 80)
    await put(yard, "huge", 500)
    assert (await chat(yard.url, "content", max_tokens=1))[0] == 200
    status, answer = await asyncio.wait_for(chat(yard.url, "huge", max_tokens=1), 10)
    assert status == 503
    assert "it needs 500 MiB on cpu of testnode, which has 100 MiB for models" in answer["error"]["message"]
    async with watching(yard.bus) as instances:
        assert [one.state for one in instances.of("content")] == [InstanceState.READY], (
            "nobody went for nothing"
        )


async def test_pinned_models_stay(yard: YardProcess) -> None:
    await put(yard, "pinned", 80, pinned=True)
    await put(yard, "hopeful", 80, queue_wait_s=MAX_WAIT_S + 3)
    async with watching(yard.bus) as instances, streaming(yard.url, "pinned", max_tokens=2) as stream:
        await stream.read_rest()
        asked = asyncio.create_task(chat(yard.url, "hopeful", max_tokens=1))
        async with asyncio.timeout(20):
            while "hopeful waits for" not in (shown := await said(yard, "ps")):
                await asyncio.sleep(0.05)
        assert "its memory is held by pinned, which cannot be evicted now" in shown
        status, answer = await asked
        assert status == 504
        assert "held by pinned" in answer["error"]["message"]
        assert [one.state for one in instances.of("pinned")] == [InstanceState.READY]


async def test_an_edit_restarts_what_it_concerns_after_what_runs_has_ended(yard: YardProcess) -> None:
    await put(yard, "edited", 40)
    async with watching(yard.bus) as instances:
        async with streaming(yard.url, "edited", max_tokens=1500) as stream:
            await stream.read_tokens(5)
            before = await instances.until("edited", InstanceState.READY)
            await put(yard, "edited", 40, queue_max=9)
            await put(yard, "edited", 50)
            assert (await stream.read_rest())[-1] == "[DONE]"
        gone = await instances.until("edited", InstanceState.STOPPED)
        assert (gone.instance, gone.reason) == (before.instance, Reason.REPLACED)
        after = await instances.until("edited", InstanceState.READY)
        assert after.instance != before.instance
        assert reserved_mib(instances) == 50


async def test_a_stopped_autostart_model_stays_down_until_it_is_asked_for(yard: YardProcess) -> None:
    async with watching(yard.bus) as instances:
        await put(yard, "eager", 40, autostart=True, ttl_s=0.5)
        await instances.until("eager", InstanceState.READY)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="eager"))
        await instances.until("eager", InstanceState.STOPPED)
        assert (await chat(yard.url, "eager", max_tokens=1))[0] == 200
        await put(yard, "eager", 40, ttl_s=0.5)
        async with asyncio.timeout(20):
            await instances.mirror.until(
                lambda _: any(i.reason is Reason.IDLE for i in instances.of("eager"))
            )


async def said(yard: YardProcess, *words: str) -> str:
    """What a command prints that is done."""
    code, out, err = await yard_command(yard, *words)
    assert code == 0, err
    return out


async def test_groups_keep_models_apart_and_bring_them_along(yard: YardProcess) -> None:
    for name in ("one", "two", "three"):
        await put(yard, name, 20)
    told = await said(yard, "group", "rivals", "--apart", "one", "two")
    assert told == "The group rivals holds from now on.\n"
    await said(yard, "group", "friends", "--together", "two", "three")
    assert "friends  together  two, three" in await said(yard, "groups")
    async with watching(yard.bus) as instances:
        assert (await chat(yard.url, "one", max_tokens=1))[0] == 200
        assert "would evict one" in (told := await said(yard, "plan", "two")) or "stays" in told
        assert (await chat(yard.url, "two", max_tokens=1))[0] == 200
        await instances.until("three", InstanceState.READY)
        assert (await instances.until("one", InstanceState.STOPPED)).reason is Reason.EVICTED
    await said(yard, "group", "rivals", "--remove")
    assert "rivals" not in await said(yard, "groups")


async def test_what_was_measured_corrects_the_next_estimate(tmp_path: Path) -> None:
    async with small_yard(tmp_path) as yard:
        await put(yard, "weighed", 0, profiles=())
        async with Tasks() as tasks, watching(yard.bus) as instances:
            memory: BucketCache[MeasuredMemory] = await BucketCache.start(yard.bus, buckets.MEMORY, tasks)
            assert (await chat(yard.url, "weighed", max_tokens=1))[0] == 200
            async with asyncio.timeout(30):
                await instances.mirror.until(lambda _: any(measured(one) for one in instances.of("weighed")))
            (before,) = instances.of("weighed")
            await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="weighed"))
            async with asyncio.timeout(30):
                await memory.until(lambda values: bool(values))
            (noted,) = memory.values.values()
            used, estimated = noted.uses[-1].used_bytes, before.reserved[0].predicted_bytes
            assert used >= (measured(before) or 0)
            assert noted.load_s == before.load_s
            expected = correct(estimated, [Measured(used, estimated)])
            assert expected != estimated
            # The scheduler asks a node anew after some seconds.
            async with asyncio.timeout(30):
                while f"with {format_size(expected)} of cpu" not in await said(yard, "plan", "weighed"):
                    await asyncio.sleep(0.2)
            assert (await chat(yard.url, "weighed", max_tokens=1))[0] == 200
            assert expected in [one.reserved[0].predicted_bytes for one in instances.of("weighed")]


def measured(instance: Instance) -> int | None:
    return instance.reserved[0].measured_bytes if instance.reserved else None
