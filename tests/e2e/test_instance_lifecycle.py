"""The lifecycle of instances with real processes: failures, hangs, stops and restarts."""

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

from modelyard.host.processes import ProcessGroup, is_same, started_at, wait_until_gone
from schemas import subjects
from schemas.instances import Instance, InstanceState, Reason
from schemas.models import ModelRef
from schemas.placement import Cordon
from schemas.profiles import DeviceNeed, Profile
from tests.e2e.chat_client import HELLO, chat, streaming
from tests.e2e.instance_history import InstanceHistory, assert_continuous, record_instances
from tests.e2e.models import SLOW, put_slow, scripted_model
from tests.e2e.yard_process import YardProcess, running_yard
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
S = InstanceState


@contextlib.asynccontextmanager
async def yard_with_history(home: Path, **more: str) -> AsyncIterator[tuple[YardProcess, InstanceHistory]]:
    async with running_yard(home, **more) as yard, record_instances(yard.bus) as history:
        yield yard, history


def engine_processes(yard: YardProcess, instance: Instance) -> list[tuple[int, float]]:
    """The engine and its child process, each with its start time."""
    log = (yard.home / "logs" / f"{instance.instance}.log").read_text()
    assert instance.engine_pid is not None
    pids = (instance.engine_pid, int(log.split("child ")[1].split()[0]))
    return [(pid, started_at(pid) or 0.0) for pid in pids]


async def exit_time(processes: list[tuple[int, float]]) -> float:
    """When the last of the processes had exited, in unix seconds."""
    await asyncio.gather(*(wait_until_gone(*process) for process in processes))
    return time.time()


async def test_a_crash_loop_backs_off_and_opens_the_circuit_until_the_model_is_edited(
    tmp_path: Path,
) -> None:
    loop = "test/loop"
    async with yard_with_history(tmp_path / "home") as (yard, history):
        await yard.put(scripted_model(loop, "exits", autostart=True))
        await history.reached(loop, S.FAILED, count=4, timeout_s=60)
        waiting = asyncio.create_task(chat(yard.url, loop))
        await history.reached(loop, S.FAILED, count=5, timeout_s=60)
        failed, began = history.of(loop, S.FAILED), history.of(loop, S.STARTING)
        assert all(step.ever_ready for step in failed), "each instance had been ready"
        assert [step.failures for step in failed] == [1, 2, 3, 4, 5]
        pauses = [later.changed_at - step.changed_at for step, later in zip(failed, began[1:], strict=False)]
        assert all(pause >= shortest for pause, shortest in zip(pauses, (2, 4, 8, 16), strict=True)), pauses
        assert [step.circuit_open for step in failed] == [False] * 4 + [True]
        # The waiting request is refused, and a new one at once.
        status, answer = await asyncio.wait_for(waiting, 10)
        assert (status, answer["error"]["code"]) == (503, "model_start_failed")
        status, retry_after_s, message = await refused(yard, loop)
        assert (status, retry_after_s > 500) == (503, True)
        for text in ("failed 5 times in a row", f"yard start {loop}", "no more of this"):
            assert text in message
        # A user's start is tried at once and resets the count.
        await yard.bus.call(subjects.MODEL_START, ModelRef(model=loop))
        retry = await history.reached(loop, S.FAILED, count=6)
        assert (retry.failures, retry.circuit_open) == (1, False)
        await yard.put(scripted_model(loop, autostart=True))
        await history.until(lambda: bool(history.changes) and history.of(loop)[-1].state is S.READY)
        assert (await chat(yard.url, loop))[0] == 200


async def refused(yard: YardProcess, model: str) -> tuple[int, int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{yard.url}/v1/chat/completions", json={"model": model, "messages": HELLO}) as response,
    ):
        message = (await response.json())["error"]["message"]
        return response.status, int(response.headers.get("Retry-After", 0)), message


async def test_an_engine_that_hangs_while_loading_is_ended_after_the_start_budget(yard: YardProcess) -> None:
    model = "test/silent"
    async with record_instances(yard.bus) as history:
        await yard.put(scripted_model(model, "silent", start_budget_s=2.0))
        status, answer = await chat(yard.url, model)
        failed = await history.reached(model, S.FAILED)
    assert (status, failed.reason) == (503, Reason.UNHEALTHY)
    assert "within 2 s" in answer["error"]["message"]
    assert 2.0 <= failed.changed_at - failed.started_at < 5.0
    assert failed.engine_pid is not None
    assert started_at(failed.engine_pid) is None


async def test_memory_is_free_only_after_every_process_of_an_engine_has_exited(tmp_path: Path) -> None:
    """The engine and its child ignore SIGTERM; the next model needs their memory."""
    big = (Profile(devices=(DeviceNeed(device="cpu", memory_mib=700),)),)
    limits = {"YARD_MEMORY_LIMITS": "cpu=1GiB", "YARD_SWAP_MIN_DWELL_S": "0"}
    async with yard_with_history(tmp_path / "home", **limits) as (yard, history):
        await yard.put(scripted_model("test/stubborn", "stubborn", "family", profiles=big))
        await yard.put(scripted_model("test/next", profiles=big))
        assert (await chat(yard.url, "test/stubborn"))[0] == 200
        exited = asyncio.create_task(
            exit_time(engine_processes(yard, await history.reached("test/stubborn", S.READY)))
        )
        assert (await chat(yard.url, "test/next"))[0] == 200
        stopping = await history.reached("test/stubborn", S.STOPPING)
        stopped, following = (
            await history.reached("test/stubborn", S.STOPPED),
            await history.reached("test/next", S.STARTING),
        )
    assert stopping.reason is Reason.EVICTED
    assert stopped.changed_at - stopping.changed_at >= 5.0, "the engine had time after SIGTERM"
    assert await exited <= following.changed_at + 0.05
    assert stopped.changed_at <= following.changed_at


async def test_a_killed_runner_ends_every_process_that_its_engine_started(yard: YardProcess) -> None:
    async with record_instances(yard.bus) as history:
        await yard.put(scripted_model("test/family", "family", "stubborn"))
        assert (await chat(yard.url, "test/family"))[0] == 200
        ready = await history.reached("test/family", S.READY)
        processes = engine_processes(yard, ready)
        assert all(is_same(*process) for process in processes)
        exited = asyncio.create_task(exit_time(processes))
        assert ready.pid is not None
        psutil.Process(ready.pid).kill()
        failed = await history.reached("test/family", S.FAILED)
        assert await asyncio.wait_for(exited, 5) <= failed.changed_at + 0.05
    assert failed.reason is Reason.CRASHED


async def test_the_next_supervisor_ends_the_processes_of_a_killed_runner(
    yard: YardProcess,
) -> None:
    async with record_instances(yard.bus) as history:
        await yard.put(scripted_model("test/orphans", "family", "stubborn"))
        assert (await chat(yard.url, "test/orphans"))[0] == 200
        ready = await history.reached("test/orphans", S.READY)
        exited = asyncio.create_task(exit_time(engine_processes(yard, ready)))
        supervisor = yard.service("supervisor")
        supervisor.suspend()
        assert ready.pid is not None
        psutil.Process(ready.pid).kill()
        supervisor.kill()
        await asyncio.wait_for(exited, 20)
        run_file = yard.home / "run" / f"runner-{ready.instance}.json"
        await eventually(lambda: not run_file.exists(), "the run file is removed", timeout_s=5)


async def test_a_hanging_engine_is_replaced_and_its_stream_continues(tmp_path: Path, slow_gguf: Path) -> None:
    async with yard_with_history(tmp_path / "home", YARD_HANG_S="3") as (yard, history):
        await put_slow(yard, slow_gguf)
        usage = {"include_usage": True}
        async with streaming(yard.url, SLOW, max_tokens=60, stream_options=usage) as stream:
            await stream.read_tokens(10)
            ready = await history.reached(SLOW, S.READY)
            assert ready.engine_pid is not None
            os.kill(ready.engine_pid, signal.SIGSTOP)
            stopped_at = time.time()
            lines = await stream.read_rest()
        assert_continuous(lines, tokens=60)
        failed = await history.reached(SLOW, S.FAILED)
    assert (failed.instance, failed.reason) == (ready.instance, Reason.UNHEALTHY)
    assert "no sign of life for 3 s" in (failed.error or "")
    assert 3.0 <= failed.changed_at - stopped_at < 10.0


async def test_an_engine_that_computes_in_its_only_thread_is_not_killed(tmp_path: Path) -> None:
    """It answers nothing, not even its health path, three times as long as the limit."""
    async with yard_with_history(tmp_path / "home", YARD_HANG_S="2") as (yard, history):
        await yard.put(scripted_model("test/thinker", "thinks"))
        status, _ = await chat(yard.url, "test/thinker", messages=[{"role": "user", "content": "THINK"}], n=1)
        assert status == 200
        assert not history.of("test/thinker", S.FAILED)
        assert len(history.of("test/thinker", S.READY)) == 1


async def test_an_idle_model_is_unloaded_after_its_ttl(yard: YardProcess) -> None:
    async with record_instances(yard.bus) as history:
        await yard.put(scripted_model("test/brief", ttl_s=1.0))
        assert (await chat(yard.url, "test/brief"))[0] == 200
        stopped = await history.reached("test/brief", S.STOPPED)
        assert stopped.reason is Reason.IDLE
        assert stopped.used_at is not None
        assert stopped.changed_at - stopped.used_at >= 1.0
        assert (await chat(yard.url, "test/brief"))[0] == 200, "and loaded again by a request"


async def test_autostart_starts_with_the_yard_and_after_a_crash(tmp_path: Path) -> None:
    model, home = "test/always", tmp_path / "home"
    async with yard_with_history(home) as (yard, history):
        await yard.put(scripted_model(model, autostart=True))
        first = await history.reached(model, S.READY)
    async with yard_with_history(home) as (yard, history):
        second = await history.reached(model, S.READY)
        assert second.instance != first.instance
        assert second.engine_pid is not None
        psutil.Process(second.engine_pid).kill()
        assert (await history.reached(model, S.FAILED)).reason is Reason.CRASHED
        third = await history.reached(model, S.READY, count=2)
        assert third.instance != second.instance


async def test_a_drained_node_stops_its_instances_and_takes_no_start_until_uncordoned(
    yard: YardProcess,
) -> None:
    model = "test/drained"
    async with record_instances(yard.bus) as history:
        await yard.put(scripted_model(model, autostart=True))
        await history.reached(model, S.READY)
        await yard.bus.call(subjects.NODE_CORDON, Cordon(cordoned=True, drain=True), node="testnode")
        assert (await history.reached(model, S.STOPPED)).reason is Reason.DRAINED
        accepted = await yard.bus.call(subjects.MODEL_START, ModelRef(model=model))
        assert (accepted.state, accepted.instance) == ("waiting", None)
        assert "is cordoned" in (accepted.reason or "")
        assert len(history.of(model, S.STARTING)) == 1, "neither autostart nor a user starts it"
        waiting = asyncio.create_task(chat(yard.url, model))
        await yard.bus.call(subjects.NODE_CORDON, Cordon(cordoned=False), node="testnode")
        assert (await asyncio.wait_for(waiting, 20))[0] == 200


async def test_logs_can_be_queried_over_http(yard: YardProcess) -> None:
    async with record_instances(yard.bus) as history:
        await yard.put(scripted_model("test/parents", "family"))
        assert (await chat(yard.url, "test/parents"))[0] == 200
        ready = await history.reached("test/parents", S.READY)
    _, child = engine_processes(yard, ready)
    async with aiohttp.ClientSession() as session:

        async def found() -> tuple[int, list[str]] | None:
            async with session.get(f"{yard.url}/api/logs/test/parents?grep=CHILD&since_s=60") as response:
                lines = [line["text"] for line in (await response.json())["lines"]]
                return (response.status, lines) if lines or response.status != 200 else None

        status, lines = await eventually(found, "the log has the line")
        assert status == 200
        assert lines == [f"child {child[0]}"]
        async with session.get(f"{yard.url}/api/logs/test/parents?since_s=soon") as response:
            assert (response.status, "since_s" in await response.text()) == (400, True)


async def test_a_process_group_is_killed_only_with_its_start_time(tmp_path: Path) -> None:
    """A reused pid does not match."""
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
