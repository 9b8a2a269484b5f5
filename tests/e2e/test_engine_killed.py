"""Runners and engines are killed, and clients leave: what that does to answers, on a yard that lives on."""

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
from tests.e2e.chatting import chat, streaming
from tests.e2e.conftest import put_slow
from tests.e2e.living import assert_goes_on
from tests.e2e.yard_process import YardProcess, running_yard, until_idle, watching

pytestmark = pytest.mark.asyncio(loop_scope="module")
_NUMBERS = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        yield yard


@pytest_asyncio.fixture(loop_scope="module")
async def slow(yard: YardProcess, slow_gguf: Path) -> AsyncIterator[str]:
    """The slow model under a name of the test's own; it is gone after the test."""
    name = f"test/slow-{next(_NUMBERS)}"
    await put_slow(yard, slow_gguf, name=name)
    yield name
    await yard.bus.call(subjects.MODEL_DELETE, DeleteModel(model=name, force=True))


async def test_a_killed_runner_takes_its_engine_with_it_and_its_stream_goes_on(
    yard: YardProcess, slow: str
) -> None:
    usage = {"include_usage": True}
    async with (
        watching(yard.bus) as instances,
        streaming(yard.url, slow, max_tokens=60, stream_options=usage) as stream,
    ):
        await stream.read_tokens(10)
        instance = await instances.until(slow, InstanceState.READY)
        assert instance.pid is not None
        assert instance.engine_pid is not None
        engine_began = started_at(instance.engine_pid)
        assert engine_began is not None
        psutil.Process(instance.pid).kill()
        async with asyncio.timeout(2):
            await wait_until_gone(instance.engine_pid, engine_began)
        assert not is_same(instance.engine_pid, engine_began)
        lines = await stream.read_rest()
    assert_goes_on(lines, tokens=60)


async def test_an_engine_killed_in_mid_stream_is_not_the_end_of_the_stream(
    yard: YardProcess, slow: str
) -> None:
    usage = {"include_usage": True}
    async with (
        watching(yard.bus) as instances,
        streaming(yard.url, slow, max_tokens=60, stream_options=usage) as stream,
    ):
        await stream.read_tokens(10)
        instance = await instances.until(slow, InstanceState.READY)
        assert instance.engine_pid is not None
        psutil.Process(instance.engine_pid).kill()
        lines = await stream.read_rest()
    assert_goes_on(lines, tokens=60)


async def test_an_answer_that_nobody_can_go_on_with_ends_with_its_reason(
    yard: YardProcess, slow: str
) -> None:
    async with (
        watching(yard.bus) as instances,
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


async def test_a_request_at_which_the_engine_died_twice_is_not_tried_again(
    yard: YardProcess, slow: str
) -> None:
    async with watching(yard.bus) as instances:
        asked = asyncio.create_task(chat(yard.url, slow, max_tokens=20000))
        killed: set[int] = set()
        for _ in range(2):
            async with asyncio.timeout(30):
                while not (busy := [i for i in instances.of(slow) if i.busy and i.engine_pid not in killed]):
                    await asyncio.sleep(0.05)
            assert busy[0].engine_pid is not None
            psutil.Process(busy[0].engine_pid).kill()
            killed.add(busy[0].engine_pid)
        status, answer = await asyncio.wait_for(asked, 30)
    assert status == 502
    assert "twice" in answer["error"]["message"]


async def test_a_runner_killed_before_the_first_token_is_not_noticed_by_the_client(
    yard: YardProcess, slow: str
) -> None:
    """The prompt is long enough to take the engine a while; the kill comes while it reads it."""
    assert (await chat(yard.url, slow, max_tokens=1))[0] == 200
    started = await yard.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await yard.bus.nc.flush()
    long = [{"role": "user", "content": "to be or not " * 500}]
    asked = asyncio.create_task(chat(yard.url, slow, max_tokens=3, messages=long))
    event = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=10)).data)
    assert event.attempt == 1
    async with watching(yard.bus) as instances:
        instance = await instances.until(slow, InstanceState.READY)
        assert instance.pid is not None
        psutil.Process(instance.pid).kill()
    status, answer = await asyncio.wait_for(asked, 50)
    assert status == 200, answer
    assert answer["usage"]["completion_tokens"] == 3
    again = subjects.REQUEST_STARTED.decode((await started.next_msg(timeout=1)).data)
    assert (again.request, again.attempt) == (event.request, 2)


async def test_a_client_that_leaves_frees_the_slot_within_a_second(yard: YardProcess, slow: str) -> None:
    finished = await yard.bus.nc.subscribe(subjects.REQUEST_FINISHED.wildcard)
    await yard.bus.nc.flush()
    async with watching(yard.bus) as instances:
        async with streaming(yard.url, slow, max_tokens=20000) as stream:
            await stream.read_tokens(3)
            instance = await instances.until(slow, InstanceState.READY)
        assert instance.port is not None
        left_at = time.monotonic()
        await until_idle(instance.port, 1.0)
        assert time.monotonic() - left_at < 1.0
        record = subjects.REQUEST_FINISHED.decode((await finished.next_msg(timeout=5)).data)
        assert record.outcome is Outcome.CANCELLED
        assert record.instance == instance.instance
        assert record.completion_tokens >= 3


async def test_a_client_that_leaves_a_whole_answer_frees_the_slot_too(yard: YardProcess, slow: str) -> None:
    """llama-server itself would not notice that for as long as somebody asks it anything."""
    started = await yard.bus.nc.subscribe(subjects.REQUEST_STARTED.wildcard)
    await yard.bus.nc.flush()
    asked = asyncio.create_task(chat(yard.url, slow, max_tokens=20000))
    await started.next_msg(timeout=20)
    async with watching(yard.bus) as instances:
        instance = await instances.until(slow, InstanceState.READY)
        asked.cancel()
        assert instance.port is not None
        await until_idle(instance.port, 1.0)


async def test_a_stopped_model_finishes_what_it_answers(yard: YardProcess, slow: str) -> None:
    async with watching(yard.bus) as instances, streaming(yard.url, slow, max_tokens=300) as stream:
        await stream.read_tokens(3)
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model=slow))
        await instances.until(slow, InstanceState.DRAINING)
        lines = await stream.read_rest()
        assert lines[-1] == "[DONE]"
        assert '"finish_reason":"length"' in lines[-2]
        await instances.until(slow, InstanceState.STOPPED)
