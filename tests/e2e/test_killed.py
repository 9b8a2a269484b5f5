"""What each death costs: real processes, real signals."""

import asyncio
import json
import time
from pathlib import Path

import psutil
import pytest

from modelyard.processes import is_same, started_at, wait_gone
from modelyard.tinymodels import DEMO_SENTENCE
from schemas import subjects
from schemas.errors import ServiceUnavailable
from schemas.instances import InstanceState
from schemas.models import ModelRef
from schemas.requests import Outcome
from tests.e2e.chatting import chat, streaming
from tests.e2e.conftest import SLOW, put_slow
from tests.e2e.living import lively, told
from tests.e2e.yard_process import YardProcess, until_idle, watching


async def until_service_restarted(yard: YardProcess, name: str, old: int) -> None:
    """Wait until the killed service answers again as another process."""
    async with asyncio.timeout(20):
        while True:
            try:
                await yard.bus.nc.request(f"$SRV.PING.{name}", b"", timeout=1)
                if yard.service(name).pid != old:
                    return
            except Exception:  # noqa: BLE001 - not there yet, in one of many ways
                await asyncio.sleep(0.05)


async def test_a_killed_supervisor_costs_no_stream_and_the_next_one_adopts_the_runner(
    yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    async with watching(yard.bus) as instances, streaming(yard.url, SLOW, max_tokens=400) as stream:
        await stream.read_tokens(3)
        before = await instances.until(SLOW, InstanceState.READY)
        supervisor = yard.service("supervisor")
        supervisor.kill()
        lines = await stream.read_rest()
        assert lines[-1] == "[DONE]"
        assert '"finish_reason":"length"' in lines[-2]
        await until_service_restarted(yard, "supervisor", supervisor.pid)
        assert (await chat(yard.url, SLOW, max_tokens=3))[0] == 200
        assert [i.instance for i in instances.of(SLOW)] == [before.instance], "the same one serves on"
        # Adopted: the new supervisor can stop it, and speaks for it when it is gone.
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model=SLOW))
        assert before.pid is not None
        assert before.pid_started_at is not None
        async with asyncio.timeout(15):
            await wait_gone(before.pid, before.pid_started_at)


async def test_what_somebody_stopped_stays_down_when_the_supervisor_is_killed(yard: YardProcess) -> None:
    async with told(yard.bus) as story:
        await yard.put(lively("always", autostart=True))
        await story.step("always", InstanceState.READY)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="always"))
        supervisor = yard.service("supervisor")
        supervisor.kill()
        await until_service_restarted(yard, "supervisor", supervisor.pid)
        await yard.put(lively("later"))
        await started(yard, "later")
        await story.step("later", InstanceState.READY)
        assert len(story.of("always", InstanceState.STARTING)) == 1
        await started(yard, "always")
        assert len(story.of("always", InstanceState.STARTING)) == 2


async def started(yard: YardProcess, model: str) -> None:
    """Ask the scheduler, who may not be back yet."""
    async with asyncio.timeout(20):
        while True:
            try:
                await yard.bus.call(subjects.MODEL_START, ModelRef(model=model))
                return
            except ServiceUnavailable:
                await asyncio.sleep(0.05)


async def test_a_killed_runner_takes_its_engine_with_it_and_its_stream_goes_on(
    yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    usage = {"include_usage": True}
    async with (
        watching(yard.bus) as instances,
        streaming(yard.url, SLOW, max_tokens=60, stream_options=usage) as stream,
    ):
        await stream.read_tokens(10)
        instance = await instances.until(SLOW, InstanceState.READY)
        assert instance.pid is not None
        assert instance.engine_pid is not None
        engine_began = started_at(instance.engine_pid)
        assert engine_began is not None
        psutil.Process(instance.pid).kill()
        async with asyncio.timeout(2):
            await wait_gone(instance.engine_pid, engine_began)
        assert not is_same(instance.engine_pid, engine_began)
        lines = await stream.read_rest()
    assert_goes_on(lines, tokens=60)


def assert_goes_on(lines: list[str], *, tokens: int) -> None:
    """One stream, as if nothing had happened: one id, one role, one finish, one usage, one end."""
    assert lines[-1] == "[DONE]"
    assert lines.count("[DONE]") == 1
    chunks = [json.loads(line) for line in lines[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(usages) == 1
    assert usages[0]["completion_tokens"] == tokens
    assert usages[0]["total_tokens"] == usages[0]["prompt_tokens"] + tokens


async def test_an_engine_killed_in_mid_stream_is_not_the_end_of_the_stream(
    yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    usage = {"include_usage": True}
    async with (
        watching(yard.bus) as instances,
        streaming(yard.url, SLOW, max_tokens=60, stream_options=usage) as stream,
    ):
        await stream.read_tokens(10)
        instance = await instances.until(SLOW, InstanceState.READY)
        assert instance.engine_pid is not None
        psutil.Process(instance.engine_pid).kill()
        lines = await stream.read_rest()
    assert_goes_on(lines, tokens=60)


async def test_an_answer_that_nobody_can_go_on_with_ends_with_its_reason(
    yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    async with (
        watching(yard.bus) as instances,
        streaming(yard.url, SLOW, max_tokens=5000, logprobs=True) as stream,
    ):
        await stream.read_tokens(3)
        instance = await instances.until(SLOW, InstanceState.READY)
        assert instance.engine_pid is not None
        psutil.Process(instance.engine_pid).kill()
        await stream.read_rest()
        assert stream.error is not None
        assert stream.error["code"] == "engine_failed"
        failed = await instances.until(SLOW, InstanceState.FAILED)
        assert "signal 9" in (failed.error or "")


async def test_a_request_at_which_the_engine_died_twice_is_not_tried_again(
    yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    async with watching(yard.bus) as instances:
        asked = asyncio.create_task(chat(yard.url, SLOW, max_tokens=20000))
        killed: set[int] = set()
        for _ in range(2):
            async with asyncio.timeout(30):
                while not (busy := [i for i in instances.of(SLOW) if i.busy and i.engine_pid not in killed]):
                    await asyncio.sleep(0.05)
            assert busy[0].engine_pid is not None
            psutil.Process(busy[0].engine_pid).kill()
            killed.add(busy[0].engine_pid)
        status, answer = await asyncio.wait_for(asked, 30)
    assert status == 502
    assert "twice" in answer["error"]["message"]


async def test_a_runner_killed_before_the_first_token_is_not_noticed_by_the_client(
    yard: YardProcess, slow_gguf: Path
) -> None:
    """The prompt is long enough to take the engine a while; the kill comes while it reads it."""
    await put_slow(yard, slow_gguf)
    assert (await chat(yard.url, SLOW, max_tokens=1))[0] == 200
    started = await yard.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await yard.bus.nc.flush()
    long = [{"role": "user", "content": "to be or not " * 500}]
    asked = asyncio.create_task(chat(yard.url, SLOW, max_tokens=3, messages=long))
    event = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=10)).data)
    assert event.attempt == 1
    async with watching(yard.bus) as instances:
        instance = await instances.until(SLOW, InstanceState.READY)
        assert instance.pid is not None
        psutil.Process(instance.pid).kill()
    status, answer = await asyncio.wait_for(asked, 50)
    assert status == 200, answer
    assert answer["usage"]["completion_tokens"] == 3
    again = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=1)).data)
    assert (again.request, again.attempt) == (event.request, 2)


async def test_a_client_that_leaves_frees_the_slot_within_a_second(
    yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(yard, slow_gguf)
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.nc.flush()
    async with watching(yard.bus) as instances:
        async with streaming(yard.url, SLOW, max_tokens=20000) as stream:
            await stream.read_tokens(3)
            instance = await instances.until(SLOW, InstanceState.READY)
        assert instance.port is not None
        left_at = time.monotonic()
        await until_idle(instance.port, 1.0)
        assert time.monotonic() - left_at < 1.0
        record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=5)).data)
        assert record.outcome is Outcome.CANCELLED
        assert record.instance == instance.instance
        assert record.completion_tokens >= 3


async def test_a_client_that_leaves_a_whole_answer_frees_the_slot_too(
    yard: YardProcess, slow_gguf: Path
) -> None:
    """llama-server itself would not notice that for as long as somebody asks it anything."""
    await put_slow(yard, slow_gguf)
    started = await yard.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await yard.bus.nc.flush()
    asked = asyncio.create_task(chat(yard.url, SLOW, max_tokens=20000))
    await started.next_msg(timeout=20)
    async with watching(yard.bus) as instances:
        instance = await instances.until(SLOW, InstanceState.READY)
        asked.cancel()
        assert instance.port is not None
        await until_idle(instance.port, 1.0)


async def test_a_killed_gateway_stops_what_it_had_asked_for(yard: YardProcess, slow_gguf: Path) -> None:
    await put_slow(yard, slow_gguf)
    async with watching(yard.bus) as instances, streaming(yard.url, SLOW, max_tokens=20000) as stream:
        await stream.read_tokens(3)
        instance = await instances.until(SLOW, InstanceState.READY)
        gateway = yard.service("gateway")
        gateway.kill()
        assert instance.port is not None
        await until_idle(instance.port, 10.0)
        await until_service_restarted(yard, "gateway", gateway.pid)
    assert (await chat(yard.url, SLOW, max_tokens=3))[0] == 200


async def test_a_killed_broker_comes_back_with_everything(yard: YardProcess) -> None:
    assert (await chat(yard.url, "demo"))[0] == 200
    broker = next(p for p in yard.processes().values() if p.name() == "nats-server")
    broker.kill()
    async with asyncio.timeout(30):
        while True:
            status, answer = await chat(yard.url, "demo")
            if status == 200:
                break
            assert (status, answer["error"]["code"]) == (503, "broker_unavailable")
            await asyncio.sleep(0.05)
    assert answer["choices"][0]["message"]["content"] == DEMO_SENTENCE


@pytest.mark.parametrize("service", ["monitor", "downloader"])
async def test_a_killed_service_comes_back(yard: YardProcess, service: str) -> None:
    old = yard.service(service)
    old.kill()
    await until_service_restarted(yard, service, old.pid)
    assert (await chat(yard.url, "demo"))[0] == 200


async def test_a_broker_killed_in_mid_stream_costs_no_token(yard: YardProcess, slow_gguf: Path) -> None:
    await put_slow(yard, slow_gguf)
    usage = {"include_usage": True}
    async with (
        watching(yard.bus) as instances,
        streaming(yard.url, SLOW, max_tokens=400, stream_options=usage) as stream,
    ):
        await stream.read_tokens(3)
        before = await instances.until(SLOW, InstanceState.READY)
        next(p for p in yard.processes().values() if p.name() == "nats-server").kill()
        lines = await stream.read_rest()
        assert_goes_on(lines, tokens=400)
        assert sum('"delta":{"content":' in line for line in lines) == 400
        assert before.port is not None
        await until_idle(before.port, 20.0)
        async with asyncio.timeout(30):
            while (await chat(yard.url, SLOW, max_tokens=3))[0] != 200:
                await asyncio.sleep(0.05)
        after = await instances.until(SLOW, InstanceState.READY)
        assert after.instance == before.instance, "the model was not loaded again"


async def test_a_broker_away_for_long_costs_no_loaded_model(yard: YardProcess, slow_gguf: Path) -> None:
    """Longer than records live: the runner's own expires, and no second runner may be started for it."""
    await put_slow(yard, slow_gguf)
    async with watching(yard.bus) as instances, streaming(yard.url, SLOW, max_tokens=20000) as stream:
        await stream.read_tokens(3)
        before = await instances.until(SLOW, InstanceState.READY)
        broker = next(p for p in yard.processes().values() if p.name() == "nats-server")
        broker.suspend()
        try:
            # Not to wait for anything to happen, but for nothing to: records live for 6 s.
            await asyncio.sleep(9)
        finally:
            broker.resume()
        async with asyncio.timeout(30):
            while (await chat(yard.url, SLOW, max_tokens=3))[0] != 200:
                await asyncio.sleep(0.05)
        assert [i.instance for i in instances.of(SLOW) if i.state is InstanceState.READY] == [before.instance]


async def test_a_stopped_model_finishes_what_it_answers(yard: YardProcess, slow_gguf: Path) -> None:
    await put_slow(yard, slow_gguf)
    async with watching(yard.bus) as instances, streaming(yard.url, SLOW, max_tokens=300) as stream:
        await stream.read_tokens(3)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model=SLOW))
        await instances.until(SLOW, InstanceState.DRAINING)
        lines = await stream.read_rest()
        assert lines[-1] == "[DONE]"
        assert '"finish_reason":"length"' in lines[-2]
        await instances.until(SLOW, InstanceState.STOPPED)


async def test_ctrl_c_in_mid_stream_tells_the_client(yard: YardProcess, slow_gguf: Path) -> None:
    await put_slow(yard, slow_gguf)
    async with streaming(yard.url, SLOW, max_tokens=20000) as stream:
        await stream.read_tokens(3)
        stopping = asyncio.create_task(yard.interrupt())
        await stream.read_rest()
        assert stream.error is not None
        assert stream.error["code"] == "service_unavailable"
        assert await stopping == 0
