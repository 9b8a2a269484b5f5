"""The effect of a killed service: real processes, real signals."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelyard.files.tinymodels import DEMO_SENTENCE
from modelyard.host.processes import wait_until_gone
from schemas import subjects
from schemas.errors import ServiceUnavailable
from schemas.instances import InstanceState
from schemas.models import ModelRef
from tests.e2e.chat_client import chat, streaming
from tests.e2e.instance_history import assert_continuous, record_instances
from tests.e2e.models import SLOW, put_slow, scripted_model
from tests.e2e.yard_process import YardProcess, until_idle, until_service_restarted, watch_instances
from tests.support import eventually


async def test_a_stream_survives_a_killed_supervisor_and_the_next_one_adopts_the_runner(
    new_yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(new_yard, slow_gguf)
    async with (
        watch_instances(new_yard.bus) as instances,
        streaming(new_yard.url, SLOW, max_tokens=400) as stream,
    ):
        await stream.read_tokens(3)
        before = await instances.until(SLOW, InstanceState.READY)
        supervisor = new_yard.service("supervisor")
        supervisor.kill()
        lines = await stream.read_rest()
        assert lines[-1] == "[DONE]"
        assert '"finish_reason":"length"' in lines[-2]
        await until_service_restarted(new_yard, "supervisor", supervisor.pid)
        assert (await chat(new_yard.url, SLOW, max_tokens=3))[0] == 200
        assert [i.instance for i in instances.of(SLOW)] == [before.instance], "the same instance serves"
        # Adopted: the new supervisor can stop it, and writes its last record.
        await new_yard.bus.call(subjects.MODEL_STOP, ModelRef(model=SLOW))
        assert before.pid is not None
        assert before.pid_started_at is not None
        async with asyncio.timeout(15):
            await wait_until_gone(before.pid, before.pid_started_at)


async def test_a_stopped_model_stays_stopped_after_a_killed_supervisor(new_yard: YardProcess) -> None:
    async with record_instances(new_yard.bus) as history:
        await new_yard.put(scripted_model("always", autostart=True))
        await history.reached("always", InstanceState.READY)
        await new_yard.bus.call(subjects.MODEL_STOP, ModelRef(model="always"))
        await new_yard.put(scripted_model("later"))
        supervisor = new_yard.service("supervisor")
        supervisor.kill()
        await until_service_restarted(new_yard, "supervisor", supervisor.pid)
        await start_model(new_yard, "later")
        await history.reached("later", InstanceState.READY)
        assert len(history.of("always", InstanceState.STARTING)) == 1
        await start_model(new_yard, "always")
        assert len(history.of("always", InstanceState.STARTING)) == 2


async def start_model(yard: YardProcess, model: str) -> None:
    """Start a model once the scheduler is back."""

    async def is_accepted() -> bool:
        try:
            await yard.bus.call(subjects.MODEL_START, ModelRef(model=model))
        except ServiceUnavailable:
            return False
        return True

    await eventually(is_accepted, "the scheduler accepts a start", timeout_s=20, every_s=0.05)


async def until_answered(yard: YardProcess, model: str) -> None:
    async def is_answered() -> bool:
        return (await chat(yard.url, model, max_tokens=3))[0] == 200

    await eventually(is_answered, f"{model} answers", timeout_s=30, every_s=0.05)


async def test_requests_of_a_killed_gateway_are_cancelled(new_yard: YardProcess, slow_gguf: Path) -> None:
    await put_slow(new_yard, slow_gguf)
    async with (
        watch_instances(new_yard.bus) as instances,
        streaming(new_yard.url, SLOW, max_tokens=20000) as stream,
    ):
        await stream.read_tokens(3)
        instance = await instances.until(SLOW, InstanceState.READY)
        gateway = new_yard.service("gateway")
        gateway.kill()
        assert instance.port is not None
        await until_idle(instance.port, 10.0)
        await until_service_restarted(new_yard, "gateway", gateway.pid)
    assert (await chat(new_yard.url, SLOW, max_tokens=3))[0] == 200


async def test_a_killed_broker_restarts_with_its_state(new_yard: YardProcess) -> None:
    assert (await chat(new_yard.url, "demo"))[0] == 200
    broker = next(p for p in new_yard.processes().values() if p.name() == "nats-server")
    broker.kill()
    refusals = set()

    async def answered() -> dict[str, Any] | None:
        status, body = await chat(new_yard.url, "demo")
        if status != 200:
            refusals.add((status, body["error"]["code"]))
        return body if status == 200 else None

    answer = await eventually(answered, "demo answers", timeout_s=30, every_s=0.05)
    assert refusals <= {(503, "broker_unavailable")}
    assert answer is not None
    assert answer["choices"][0]["message"]["content"] == DEMO_SENTENCE


@pytest.mark.parametrize("service", ["monitor", "downloader"])
async def test_a_killed_service_restarts(new_yard: YardProcess, service: str) -> None:
    old = new_yard.service(service)
    old.kill()
    await until_service_restarted(new_yard, service, old.pid)
    assert (await chat(new_yard.url, "demo"))[0] == 200


async def test_a_stream_loses_no_token_when_the_broker_is_killed(
    new_yard: YardProcess, slow_gguf: Path
) -> None:
    await put_slow(new_yard, slow_gguf)
    usage = {"include_usage": True}
    async with (
        watch_instances(new_yard.bus) as instances,
        streaming(new_yard.url, SLOW, max_tokens=400, stream_options=usage) as stream,
    ):
        await stream.read_tokens(3)
        before = await instances.until(SLOW, InstanceState.READY)
        next(p for p in new_yard.processes().values() if p.name() == "nats-server").kill()
        lines = await stream.read_rest()
        assert_continuous(lines, tokens=400)
        assert sum('"delta":{"content":' in line for line in lines) == 400
        assert before.port is not None
        await until_idle(before.port, 20.0)
        await until_answered(new_yard, SLOW)
        after = await instances.until(SLOW, InstanceState.READY)
        assert after.instance == before.instance, "the model was not loaded again"


async def test_a_loaded_model_survives_a_broker_that_is_away_longer_than_its_record(
    new_yard: YardProcess, slow_gguf: Path
) -> None:
    """The record of the runner expires, and no second runner may be started."""
    await put_slow(new_yard, slow_gguf)
    async with (
        watch_instances(new_yard.bus) as instances,
        streaming(new_yard.url, SLOW, max_tokens=20000) as stream,
    ):
        await stream.read_tokens(3)
        before = await instances.until(SLOW, InstanceState.READY)
        broker = next(p for p in new_yard.processes().values() if p.name() == "nats-server")
        broker.suspend()
        try:
            # Nothing may happen in this time: records expire after 6 s.
            await asyncio.sleep(9)
        finally:
            broker.resume()
        await until_answered(new_yard, SLOW)
        # Its record expired; the next one is written within 2 s.
        async with asyncio.timeout(10):
            await instances.until(SLOW, InstanceState.READY)
        assert [i.instance for i in instances.of(SLOW) if i.state is InstanceState.READY] == [before.instance]


async def test_ctrl_c_ends_a_stream_with_an_error_event(new_yard: YardProcess, slow_gguf: Path) -> None:
    await put_slow(new_yard, slow_gguf)
    async with streaming(new_yard.url, SLOW, max_tokens=20000) as stream:
        await stream.read_tokens(3)
        stopping = asyncio.create_task(new_yard.interrupt())
        await stream.read_rest()
        assert stream.error is not None
        assert stream.error["code"] == "service_unavailable"
        assert await stopping == 0
