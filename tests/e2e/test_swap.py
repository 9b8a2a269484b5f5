"""Several models on less memory than they need together: real engines on a small device."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.gguf.measured import Measured, correct
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from modelyard.tinymodels import write_babbler
from schemas import buckets, subjects
from schemas.instances import LIVE, Instance, InstanceState, Reason
from schemas.models import ModelRef, ModelSpec
from schemas.placing import MeasuredMemory, PlanQuery
from schemas.profiles import DeviceNeed, Profile
from services.supervisor.planning.text import size
from tests.e2e.chatting import chat, streaming
from tests.e2e.yard_process import Watching, YardProcess, running_yard, watching, yard_command

MEMORY_MIB = 100
MAX_WAIT_S = 4.0
MIN_DWELL_S = 1.0


def on_cpu(memory_mib: int, name: str = "default") -> Profile:
    return Profile(name=name, devices=(DeviceNeed(device="cpu", memory_mib=memory_mib),))


async def put(yard: YardProcess, name: str, memory_mib: int, **fields: Any) -> None:
    fields = {"profiles": (on_cpu(memory_mib),), "n_parallel": 2, "n_ctx": 2048} | fields
    await yard.put(ModelSpec(name=name, path="test/tiny.gguf", **fields))


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[YardProcess]:
    limits = {
        "YARD_MEMORY_LIMITS": f"cpu={MEMORY_MIB}MiB",
        "YARD_SWAP_MAX_WAIT_S": str(MAX_WAIT_S),
        "YARD_SWAP_MIN_DWELL_S": str(MIN_DWELL_S),
    }
    async with running_yard(tmp_path / "home", **limits) as yard:
        (yard.models / "test").mkdir()
        write_babbler(yard.models / "test" / "tiny.gguf")
        yield yard


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
    await put(yard, "first", 80)
    await put(yard, "second", 80)
    async with watching(yard.bus) as instances:
        wrong = never_too_much(instances)
        assert (await chat(yard.url, "first", max_tokens=1))[0] == 200
        before = await instances.until("first", InstanceState.READY)
        foreseen = await yard.bus.call(subjects.MODEL_PLAN, PlanQuery(model="second"))
        assert foreseen.evicts == ("first",) or "may not leave now" in foreseen.text, foreseen
        assert (await chat(yard.url, "second", max_tokens=1))[0] == 200
        after = await instances.until("first", InstanceState.STOPPED)
        assert (after.instance, after.reason) == (before.instance, Reason.EVICTED)
        assert not wrong
    told = await yard.bus.call(subjects.MODEL_PLAN, PlanQuery(model="second"))
    assert "answers at once" in told.text


async def test_two_starts_at_once_on_room_for_one_are_served_one_after_the_other(yard: YardProcess) -> None:
    await put(yard, "first", 80)
    await put(yard, "second", 80)
    async with watching(yard.bus) as instances:
        wrong = never_too_much(instances)
        answers = await asyncio.gather(*(chat(yard.url, name, max_tokens=2) for name in ("first", "second")))
        assert [status for status, _ in answers] == [200, 200]
        assert not wrong


async def test_a_smaller_profile_is_taken_before_anybody_has_to_go(yard: YardProcess) -> None:
    await put(yard, "first", 60)
    profiles = (on_cpu(80, "large"), Profile(name="small", devices=on_cpu(30).devices, n_parallel=1))
    await put(yard, "second", 0, profiles=profiles)
    async with watching(yard.bus) as instances:
        for name in ("first", "second"):
            assert (await chat(yard.url, name, max_tokens=1))[0] == 200
        second = await instances.until("second", InstanceState.READY)
        assert (second.profile, second.slots, reserved_mib(instances)) == ("small", 1, 90)
        assert [one.state for one in instances.of("first")] == [InstanceState.READY]


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
    await put(yard, "first", 80)
    await put(yard, "huge", 500)
    assert (await chat(yard.url, "first", max_tokens=1))[0] == 200
    status, answer = await asyncio.wait_for(chat(yard.url, "huge", max_tokens=1), 10)
    assert status == 503
    assert "it needs 500 MiB on cpu of testnode, which has 100 MiB for models" in answer["error"]["message"]
    async with watching(yard.bus) as instances:
        assert [one.state for one in instances.of("first")] == [InstanceState.READY], (
            "nobody went for nothing"
        )


async def test_pinned_models_stay(yard: YardProcess) -> None:
    await put(yard, "first", 80, pinned=True)
    await put(yard, "second", 80, queue_wait_s=MAX_WAIT_S + 3)
    async with watching(yard.bus) as instances, streaming(yard.url, "first", max_tokens=2) as stream:
        await stream.read_rest()
        asked = asyncio.create_task(chat(yard.url, "second", max_tokens=1))
        async with asyncio.timeout(20):
            while "second waits for" not in (shown := await said(yard, "ps")):
                await asyncio.sleep(0.05)
        assert "its memory is held by first, which may not leave now" in shown
        status, answer = await asked
        assert status == 504
        assert "held by first" in answer["error"]["message"]
        assert [one.state for one in instances.of("first")] == [InstanceState.READY]


async def test_an_edit_restarts_what_it_concerns_after_what_runs_has_ended(yard: YardProcess) -> None:
    await put(yard, "first", 40)
    async with watching(yard.bus) as instances:
        async with streaming(yard.url, "first", max_tokens=1500) as stream:
            await stream.read_tokens(5)
            before = await instances.until("first", InstanceState.READY)
            await put(yard, "first", 40, queue_max=9)
            await put(yard, "first", 50)
            assert (await stream.read_rest())[-1] == "[DONE]"
        gone = await instances.until("first", InstanceState.STOPPED)
        assert (gone.instance, gone.reason) == (before.instance, Reason.REPLACED)
        after = await instances.until("first", InstanceState.READY)
        assert after.instance != before.instance
        assert reserved_mib(instances) == 50


async def test_a_stopped_autostart_model_stays_down_until_it_is_asked_for(yard: YardProcess) -> None:
    async with watching(yard.bus) as instances:
        await put(yard, "first", 40, autostart=True, ttl_s=0.5)
        await instances.until("first", InstanceState.READY)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="first"))
        await instances.until("first", InstanceState.STOPPED)
        assert (await chat(yard.url, "first", max_tokens=1))[0] == 200
        await put(yard, "first", 40, ttl_s=0.5)
        async with asyncio.timeout(20):
            await instances.mirror.until(
                lambda _: any(i.reason is Reason.IDLE for i in instances.of("first"))
            )


async def said(yard: YardProcess, *words: str) -> str:
    """What a command prints that is done."""
    code, out, err = await yard_command(yard, *words)
    assert code == 0, err
    return out


async def test_groups_keep_models_apart_and_bring_them_along(yard: YardProcess) -> None:
    for name in ("first", "second", "third"):
        await put(yard, name, 20)
    told = await said(yard, "group", "rivals", "--apart", "first", "second")
    assert told == "The group rivals holds from now on.\n"
    await said(yard, "group", "friends", "--together", "second", "third")
    assert "friends  together  second, third" in await said(yard, "groups")
    async with watching(yard.bus) as instances:
        assert (await chat(yard.url, "first", max_tokens=1))[0] == 200
        assert "would evict first" in (told := await said(yard, "plan", "second")) or "stays" in told
        assert (await chat(yard.url, "second", max_tokens=1))[0] == 200
        await instances.until("third", InstanceState.READY)
        assert (await instances.until("first", InstanceState.STOPPED)).reason is Reason.EVICTED
    await said(yard, "group", "rivals", "--remove")
    assert "rivals" not in await said(yard, "groups")


async def test_what_was_measured_corrects_the_next_estimate(yard: YardProcess) -> None:
    await put(yard, "first", 0, profiles=())
    async with Tasks() as tasks, watching(yard.bus) as instances:
        memory: Mirror[MeasuredMemory] = await Mirror.start(yard.bus, buckets.MEMORY, tasks)
        assert (await chat(yard.url, "first", max_tokens=1))[0] == 200
        async with asyncio.timeout(30):
            await instances.mirror.until(lambda _: any(measured(one) for one in instances.of("first")))
        (before,) = instances.of("first")
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="first"))
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
            while f"with {size(expected)} of cpu" not in await said(yard, "plan", "first"):
                await asyncio.sleep(0.2)
        assert (await chat(yard.url, "first", max_tokens=1))[0] == 200
        assert expected in [one.reserved[0].predicted_bytes for one in instances.of("first")]


def measured(instance: Instance) -> int | None:
    return instance.reserved[0].measured_bytes if instance.reserved else None
