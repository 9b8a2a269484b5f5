"""What each death costs: real processes, real signals."""

import asyncio
from pathlib import Path

import pytest

from modelyard.host.processes import wait_until_gone
from modelyard.tinymodels import DEMO_SENTENCE
from schemas import subjects
from schemas.errors import ServiceUnavailable
from schemas.instances import InstanceState
from schemas.models import ModelRef
from tests.e2e.chatting import chat, streaming
from tests.e2e.conftest import SLOW, put_slow
from tests.e2e.living import assert_goes_on, lively, told
from tests.e2e.yard_process import YardProcess, until_idle, until_service_restarted, watching


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
            await wait_until_gone(before.pid, before.pid_started_at)


async def test_what_somebody_stopped_stays_down_when_the_supervisor_is_killed(yard: YardProcess) -> None:
    async with told(yard.bus) as story:
        await yard.put(lively("always", autostart=True))
        await story.step("always", InstanceState.READY)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model="always"))
        await yard.put(lively("later"))
        supervisor = yard.service("supervisor")
        supervisor.kill()
        await until_service_restarted(yard, "supervisor", supervisor.pid)
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
        # Its record expired; the next one is written within 2 s.
        async with asyncio.timeout(10):
            await instances.until(SLOW, InstanceState.READY)
        assert [i.instance for i in instances.of(SLOW) if i.state is InstanceState.READY] == [before.instance]


async def test_ctrl_c_in_mid_stream_tells_the_client(yard: YardProcess, slow_gguf: Path) -> None:
    await put_slow(yard, slow_gguf)
    async with streaming(yard.url, SLOW, max_tokens=20000) as stream:
        await stream.read_tokens(3)
        stopping = asyncio.create_task(yard.interrupt())
        await stream.read_rest()
        assert stream.error is not None
        assert stream.error["code"] == "service_unavailable"
        assert await stopping == 0
