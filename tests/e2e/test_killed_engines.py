"""Answers after killed runners and engines, and after clients that disconnect."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from modelyard.host.processes import is_same, started_at, wait_until_gone
from schemas import subjects
from schemas.instances import InstanceState
from schemas.models import ModelRef
from schemas.registry import DeleteModel
from schemas.requests import Outcome
from tests.e2e.chat_client import chat, streaming
from tests.e2e.instance_history import assert_continuous
from tests.e2e.models import put_slow
from tests.e2e.yard_process import YardProcess, until_idle, watch_instances
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
_NUMBERS = itertools.count()


@pytest_asyncio.fixture(loop_scope="module")
async def slow(yard: YardProcess, slow_gguf: Path) -> AsyncIterator[str]:
    """The slow model under a name of its own, deleted after the test."""
    name = f"test/slow-{next(_NUMBERS)}"
    await put_slow(yard, slow_gguf, name=name)
    yield name
    await yard.bus.call(subjects.MODEL_DELETE, DeleteModel(model=name, force=True))


async def test_a_killed_runner_ends_its_engine_and_its_stream_continues(yard: YardProcess, slow: str) -> None:
    usage = {"include_usage": True}
    async with (
        watch_instances(yard.bus) as instances,
        streaming(yard.url, slow, max_tokens=60, stream_options=usage) as stream,
    ):
        await stream.read_tokens(10)
        instance = await instances.until(slow, InstanceState.READY)
        assert instance.pid is not None
        assert instance.engine_pid is not None
        engine_started_at = started_at(instance.engine_pid)
        assert engine_started_at is not None
        psutil.Process(instance.pid).kill()
        async with asyncio.timeout(2):
            await wait_until_gone(instance.engine_pid, engine_started_at)
        assert not is_same(instance.engine_pid, engine_started_at)
        lines = await stream.read_rest()
    assert_continuous(lines, tokens=60)


async def test_a_stream_continues_after_its_engine_was_killed(yard: YardProcess, slow: str) -> None:
    usage = {"include_usage": True}
    async with (
        watch_instances(yard.bus) as instances,
        streaming(yard.url, slow, max_tokens=60, stream_options=usage) as stream,
    ):
        await stream.read_tokens(10)
        instance = await instances.until(slow, InstanceState.READY)
        assert instance.engine_pid is not None
        psutil.Process(instance.engine_pid).kill()
        lines = await stream.read_rest()
    assert_continuous(lines, tokens=60)


async def test_an_answer_that_cannot_be_continued_ends_with_an_error_event(
    yard: YardProcess, slow: str
) -> None:
    async with (
        watch_instances(yard.bus) as instances,
        streaming(yard.url, slow, max_tokens=5000, logprobs=True) as stream,
    ):
        await stream.read_tokens(3)
        instance = await instances.until(slow, InstanceState.READY)
        assert instance.engine_pid is not None
        psutil.Process(instance.engine_pid).kill()
        await stream.read_rest()
        assert stream.error is not None
        assert stream.error["code"] == "engine_failed"
        failed = await instances.until(slow, InstanceState.FAILED)
        assert "signal 9" in (failed.error or "")


async def test_a_request_whose_engine_died_twice_is_not_retried(yard: YardProcess, slow: str) -> None:
    async with watch_instances(yard.bus) as instances:
        request = asyncio.create_task(chat(yard.url, slow, max_tokens=20000))
        killed: set[int] = set()
        for _ in range(2):
            busy = await eventually(
                lambda: [i for i in instances.of(slow) if i.busy and i.engine_pid not in killed],
                "an engine is busy",
                timeout_s=30,
            )
            assert busy[0].engine_pid is not None
            psutil.Process(busy[0].engine_pid).kill()
            killed.add(busy[0].engine_pid)
        status, answer = await asyncio.wait_for(request, 30)
    assert status == 502
    assert "twice" in answer["error"]["message"]


async def test_a_runner_killed_before_the_first_token_is_invisible_to_the_client(
    yard: YardProcess, slow: str
) -> None:
    """The kill happens during prefill, which a long prompt makes slow."""
    assert (await chat(yard.url, slow, max_tokens=1))[0] == 200
    started = await yard.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await yard.bus.flush_subscriptions()
    long = [{"role": "user", "content": "to be or not " * 500}]
    request = asyncio.create_task(chat(yard.url, slow, max_tokens=3, messages=long))
    event = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=10)).data)
    assert event.attempt == 1
    async with watch_instances(yard.bus) as instances:
        instance = await instances.until(slow, InstanceState.READY)
        assert instance.pid is not None
        psutil.Process(instance.pid).kill()
    status, answer = await asyncio.wait_for(request, 50)
    assert status == 200, answer
    assert answer["usage"]["completion_tokens"] == 3
    retry = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=1)).data)
    assert (retry.request, retry.attempt) == (event.request, 2)


async def test_a_disconnected_streaming_client_frees_its_slot_within_a_second(
    yard: YardProcess, slow: str
) -> None:
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.flush_subscriptions()
    async with watch_instances(yard.bus) as instances:
        async with streaming(yard.url, slow, max_tokens=20000) as stream:
            await stream.read_tokens(3)
            instance = await instances.until(slow, InstanceState.READY)
        assert instance.port is not None
        disconnected_at = time.monotonic()
        await until_idle(instance.port, 1.0)
        assert time.monotonic() - disconnected_at < 1.0
        record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=5)).data)
        assert record.outcome is Outcome.CANCELLED
        assert record.instance == instance.instance
        assert record.completion_tokens >= 3


async def test_a_disconnected_client_without_a_stream_frees_its_slot(yard: YardProcess, slow: str) -> None:
    """llama-server does not notice a closed connection without a stream."""
    started = await yard.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await yard.bus.flush_subscriptions()
    request = asyncio.create_task(chat(yard.url, slow, max_tokens=20000))
    await started.next_msg(timeout=20)
    async with watch_instances(yard.bus) as instances:
        instance = await instances.until(slow, InstanceState.READY)
        request.cancel()
        assert instance.port is not None
        await until_idle(instance.port, 1.0)


async def test_a_stopped_model_finishes_its_running_requests(yard: YardProcess, slow: str) -> None:
    async with watch_instances(yard.bus) as instances, streaming(yard.url, slow, max_tokens=300) as stream:
        await stream.read_tokens(3)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model=slow))
        await instances.until(slow, InstanceState.DRAINING)
        lines = await stream.read_rest()
        assert lines[-1] == "[DONE]"
        assert '"finish_reason":"length"' in lines[-2]
        await instances.until(slow, InstanceState.STOPPED)
