"""The life of instances, with real processes: how they fail, hang, leave, and come back."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio

from modelyard.host.processes import ProcessGroup, is_same, started_at, wait_until_gone
from schemas import subjects
from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelRef
from schemas.placing import Cordon
from schemas.profiles import DeviceNeed, Profile
from tests.e2e.chatting import HELLO, chat, streaming
from tests.e2e.conftest import SLOW, put_slow
from tests.e2e.living import Story, assert_goes_on, lively, told
from tests.e2e.yard_process import YardProcess, running_yard

pytestmark = pytest.mark.asyncio(loop_scope="module")
S = InstanceState


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        yield yard


@contextlib.asynccontextmanager
async def yard_and_story(home: Path, **more: str) -> AsyncIterator[tuple[YardProcess, Story]]:
    async with running_yard(home, **more) as yard, told(yard.bus) as story:
        yield yard, story


def family(yard: YardProcess, instance: Instance) -> list[tuple[int, float]]:
    """The engine and the process it started, each with its start time."""
    said = (yard.home / "logs" / f"{instance.instance}.log").read_text()
    assert instance.engine_pid is not None
    pids = (instance.engine_pid, int(said.split("child ")[1].split()[0]))
    return [(pid, started_at(pid) or 0.0) for pid in pids]


async def ended_at(processes: list[tuple[int, float]]) -> float:
    """When the last of them was gone, in unix seconds."""
    await asyncio.gather(*(wait_until_gone(*process) for process in processes))
    return time.time()


async def test_a_crash_loop_backs_off_and_opens_the_circuit_until_the_model_is_mended(
    tmp_path: Path,
) -> None:
    loop = "test/loop"
    async with yard_and_story(tmp_path / "home") as (yard, story):
        await yard.put(lively(loop, "exits", autostart=True))
        await story.step(loop, S.FAILED, count=4, timeout_s=60)
        waiting = asyncio.create_task(chat(yard.url, loop))
        await story.step(loop, S.FAILED, count=5, timeout_s=60)
        failed, began = story.of(loop, S.FAILED), story.of(loop, S.STARTING)
        assert all(step.ever_ready for step in failed), "every time it had been ready"
        assert [step.failures for step in failed] == [1, 2, 3, 4, 5]
        pauses = [later.changed_at - step.changed_at for step, later in zip(failed, began[1:], strict=False)]
        assert all(pause >= wanted for pause, wanted in zip(pauses, (2, 4, 8, 16), strict=True)), pauses
        assert [step.circuit_open for step in failed] == [False] * 4 + [True]
        # Who waits is told, and so is at once who comes now.
        status, answer = await asyncio.wait_for(waiting, 10)
        assert (status, answer["error"]["code"]) == (503, "model_start_failed")
        status, retry_after_s, message = await refused(yard, loop)
        assert (status, retry_after_s > 500) == (503, True)
        for words in ("failed 5 times in a row", f"yard start {loop}", "no more of this"):
            assert words in message
        # A person may try at once, and the row begins anew.
        await yard.bus.call(subjects.MODEL_START, ModelRef(model=loop))
        again = await story.step(loop, S.FAILED, count=6)
        assert (again.failures, again.circuit_open) == (1, False)
        await yard.put(lively(loop, autostart=True))
        await story.until(lambda: bool(story.steps) and story.of(loop)[-1].state is S.READY)
        assert (await chat(yard.url, loop))[0] == 200


async def refused(yard: YardProcess, model: str) -> tuple[int, int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{yard.url}/v1/chat/completions", json={"model": model, "messages": HELLO}) as response,
    ):
        message = (await response.json())["error"]["message"]
        return response.status, int(response.headers.get("Retry-After", 0)), message


async def test_a_hang_while_loading_is_ended_at_the_start_budget(yard: YardProcess) -> None:
    model = "test/silent"
    async with told(yard.bus) as story:
        await yard.put(lively(model, "silent", start_budget_s=2.0))
        status, answer = await chat(yard.url, model)
        failed = await story.step(model, S.FAILED)
    assert (status, failed.reason) == (503, Reason.UNHEALTHY)
    assert "within 2 s" in answer["error"]["message"]
    assert 2.0 <= failed.changed_at - failed.started_at < 5.0
    assert failed.engine_pid is not None
    assert started_at(failed.engine_pid) is None


async def test_memory_counts_as_free_only_when_all_of_a_stubborn_engine_is_gone(tmp_path: Path) -> None:
    """The one is deaf to SIGTERM, and so is its child; the other needs the memory that they have."""
    big = (Profile(devices=(DeviceNeed(device="cpu", memory_mib=700),)),)
    limits = {"YARD_MEMORY_LIMITS": "cpu=1GiB", "YARD_SWAP_MIN_DWELL_S": "0"}
    async with yard_and_story(tmp_path / "home", **limits) as (yard, story):
        await yard.put(lively("test/stubborn", "stubborn", "family", profiles=big))
        await yard.put(lively("test/next", profiles=big))
        assert (await chat(yard.url, "test/stubborn"))[0] == 200
        gone = asyncio.create_task(ended_at(family(yard, await story.step("test/stubborn", S.READY))))
        assert (await chat(yard.url, "test/next"))[0] == 200
        stopping = await story.step("test/stubborn", S.STOPPING)
        stopped, following = (
            await story.step("test/stubborn", S.STOPPED),
            await story.step("test/next", S.STARTING),
        )
    assert stopping.reason is Reason.EVICTED
    assert stopped.changed_at - stopping.changed_at >= 5.0, "it was given time after SIGTERM"
    assert await gone <= following.changed_at + 0.05
    assert stopped.changed_at <= following.changed_at


async def test_a_killed_runner_takes_along_all_that_its_engine_started(yard: YardProcess) -> None:
    async with told(yard.bus) as story:
        await yard.put(lively("test/family", "family", "stubborn"))
        assert (await chat(yard.url, "test/family"))[0] == 200
        ready = await story.step("test/family", S.READY)
        processes = family(yard, ready)
        assert all(is_same(*process) for process in processes)
        gone = asyncio.create_task(ended_at(processes))
        assert ready.pid is not None
        psutil.Process(ready.pid).kill()
        failed = await story.step("test/family", S.FAILED)
        assert await asyncio.wait_for(gone, 5) <= failed.changed_at + 0.05
    assert failed.reason is Reason.CRASHED


async def test_what_a_runner_left_while_no_supervisor_was_there_is_ended_by_the_next(
    yard: YardProcess,
) -> None:
    async with told(yard.bus) as story:
        await yard.put(lively("test/orphans", "family", "stubborn"))
        assert (await chat(yard.url, "test/orphans"))[0] == 200
        ready = await story.step("test/orphans", S.READY)
        gone = asyncio.create_task(ended_at(family(yard, ready)))
        supervisor = yard.service("supervisor")
        supervisor.suspend()
        assert ready.pid is not None
        psutil.Process(ready.pid).kill()
        supervisor.kill()
        await asyncio.wait_for(gone, 20)
        async with asyncio.timeout(5):
            while (yard.home / "run" / f"runner-{ready.instance}.json").exists():
                await asyncio.sleep(0.02)


async def test_an_engine_that_hangs_is_replaced_and_its_stream_goes_on(
    tmp_path: Path, slow_gguf: Path
) -> None:
    async with yard_and_story(tmp_path / "home", YARD_HANG_S="3") as (yard, story):
        await put_slow(yard, slow_gguf)
        usage = {"include_usage": True}
        async with streaming(yard.url, SLOW, max_tokens=60, stream_options=usage) as stream:
            await stream.read_tokens(10)
            ready = await story.step(SLOW, S.READY)
            assert ready.engine_pid is not None
            os.kill(ready.engine_pid, signal.SIGSTOP)
            stopped_at = time.time()
            lines = await stream.read_rest()
        assert_goes_on(lines, tokens=60)
        failed = await story.step(SLOW, S.FAILED)
    assert (failed.instance, failed.reason) == (ready.instance, Reason.UNHEALTHY)
    assert "no sign of life for 3 s" in (failed.error or "")
    assert 3.0 <= failed.changed_at - stopped_at < 10.0


async def test_an_engine_that_computes_in_its_only_thread_is_left_alone(tmp_path: Path) -> None:
    """It answers nobody, its health path included, three times as long as the limit."""
    async with yard_and_story(tmp_path / "home", YARD_HANG_S="2") as (yard, story):
        await yard.put(lively("test/thinker", "thinks"))
        status, _ = await chat(yard.url, "test/thinker", messages=[{"role": "user", "content": "THINK"}], n=1)
        assert status == 200
        assert not story.of("test/thinker", S.FAILED)
        assert len(story.of("test/thinker", S.READY)) == 1


async def test_an_idle_model_is_unloaded_after_its_ttl(yard: YardProcess) -> None:
    async with told(yard.bus) as story:
        await yard.put(lively("test/brief", ttl_s=1.0))
        assert (await chat(yard.url, "test/brief"))[0] == 200
        stopped = await story.step("test/brief", S.STOPPED)
        assert stopped.reason is Reason.IDLE
        assert stopped.used_at is not None
        assert stopped.changed_at - stopped.used_at >= 1.0
        assert (await chat(yard.url, "test/brief"))[0] == 200, "and loaded again when somebody asks"


async def test_autostart_starts_with_the_yard_and_after_a_crash(tmp_path: Path) -> None:
    model, home = "test/always", tmp_path / "home"
    async with yard_and_story(home) as (yard, story):
        await yard.put(lively(model, autostart=True))
        first = await story.step(model, S.READY)
    async with yard_and_story(home) as (yard, story):
        second = await story.step(model, S.READY)
        assert second.instance != first.instance
        assert second.engine_pid is not None
        psutil.Process(second.engine_pid).kill()
        assert (await story.step(model, S.FAILED)).reason is Reason.CRASHED
        third = await story.step(model, S.READY, count=2)
        assert third.instance != second.instance


async def test_a_drained_node_ends_what_runs_and_takes_no_start_until_it_is_uncordoned(
    yard: YardProcess,
) -> None:
    model = "test/drained"
    async with told(yard.bus) as story:
        await yard.put(lively(model, autostart=True))
        await story.step(model, S.READY)
        await yard.bus.call(subjects.NODE_CORDON, Cordon(cordoned=True, drain=True), node="testnode")
        assert (await story.step(model, S.STOPPED)).reason is Reason.DRAINED
        accepted = await yard.bus.call(subjects.MODEL_START, ModelRef(model=model))
        assert (accepted.state, accepted.instance) == ("waiting", None)
        assert "is cordoned" in (accepted.reason or "")
        assert len(story.of(model, S.STARTING)) == 1, "neither autostart nor a start command starts it"
        waiting = asyncio.create_task(chat(yard.url, model))
        await yard.bus.call(subjects.NODE_CORDON, Cordon(cordoned=False), node="testnode")
        assert (await asyncio.wait_for(waiting, 20))[0] == 200


async def test_logs_can_be_asked_for_over_http(yard: YardProcess) -> None:
    async with told(yard.bus) as story:
        await yard.put(lively("test/parents", "family"))
        assert (await chat(yard.url, "test/parents"))[0] == 200
        ready = await story.step("test/parents", S.READY)
    _, child = family(yard, ready)
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        lines: list[str] = []
        while not lines:
            async with session.get(f"{yard.url}/api/logs/test/parents?grep=CHILD&since_s=60") as response:
                assert response.status == 200
                lines = [line["text"] for line in (await response.json())["lines"]]
        assert lines == [f"child {child[0]}"]
        async with session.get(f"{yard.url}/api/logs/test/parents?since_s=soon") as response:
            assert (response.status, "since_s" in await response.text()) == (400, True)


async def test_a_group_ends_its_own_and_nobody_else(tmp_path: Path) -> None:
    """A number that was given to another process names nobody any more."""
    process = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    try:
        created_at = started_at(process.pid)
        assert created_at is not None
        await ProcessGroup(process.pid, created_at - 100).kill()
        assert is_same(process.pid, created_at)
        await ProcessGroup(process.pid, created_at).kill()
        assert not is_same(process.pid, created_at)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
