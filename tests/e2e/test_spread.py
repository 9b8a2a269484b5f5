"""One model on two machines: llama-server on the one, a part of the layers in a worker on the other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from modelyard.cli.nodes import row_of
from modelyard.host.processes import started_at, wait_until_gone
from modelyard.tinymodels import DEMO_SENTENCE, write_reciter
from schemas import subjects
from schemas.instances import Instance, InstanceState
from schemas.models import ModelRef, ModelSpec
from schemas.profiles import DeviceNeed, Profile, WorkerNeed
from tests.e2e.chatting import chat, streaming
from tests.e2e.conftest import SLOW, put_slow
from tests.e2e.two_nodes import FAR, TwoNodes, two_nodes
from tests.e2e.yard_process import watching

SPREAD = Profile(name="spread", devices=(DeviceNeed(device="cpu"),), workers=(WorkerNeed(),))


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[TwoNodes]:
    async with two_nodes(tmp_path) as started:
        yield started


def far_part(instance: Instance) -> list[str]:
    return [one.device for one in instance.reserved if one.node == FAR]


async def test_a_model_on_two_nodes_answers_and_its_worker_goes_with_it(nodes: TwoNodes) -> None:
    write_reciter(nodes.yard.models / "reciter.gguf", DEMO_SENTENCE)
    await nodes.yard.put(ModelSpec(name="reciter", path="reciter.gguf", n_ctx=512, profiles=(SPREAD,)))
    async with watching(nodes.yard.bus) as instances:
        status, answer = await chat(nodes.yard.url, "reciter", temperature=0)
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"].strip() == DEMO_SENTENCE
        instance = await instances.until("reciter", InstanceState.READY)
        assert far_part(instance) == ["cpu"], "the plan counts with the worker's memory"
        assert len(nodes.rpc_servers()) == 1
        await nodes.nodes.until(lambda known: len(known[FAR].workers) == 1)
        assert nodes.nodes.values[FAR].workers[0].instance == instance.instance
        far = row_of(nodes.nodes.values[FAR], instances.mirror.values.values())
        assert [(one["model"], one["device"]) for one in far["workers"]] == [("reciter", "cpu")]
        reserved = {one["device"]: one["reserved_bytes"] for one in far["devices"]}
        assert reserved["cpu"] == nodes.nodes.values[FAR].workers[0].memory_bytes > 0
        await nodes.yard.bus.call(subjects.MODEL_STOP, ModelRef(model="reciter"))
        await nodes.until_no_workers(10)


async def test_a_killed_worker_ends_its_instance_with_a_sentence_and_the_stream_goes_on(
    nodes: TwoNodes, slow_gguf: Path
) -> None:
    await put_slow(nodes.yard, slow_gguf, profiles=(SPREAD,))
    async with (
        watching(nodes.yard.bus) as instances,
        streaming(nodes.yard.url, SLOW, max_tokens=60) as stream,
    ):
        await stream.read_tokens(5)
        first = await instances.until(SLOW, InstanceState.READY)
        (server,) = nodes.rpc_servers()
        server.kill()
        failed = await instances.until(SLOW, InstanceState.FAILED)
        assert failed.instance == first.instance
        assert failed.error == f"The worker on {FAR} is gone: its RPC server was ended by signal 9."
        lines = await stream.read_rest()
        assert lines[-1] == "[DONE]", "answered by the next instance"
        second = await instances.until(SLOW, InstanceState.READY)
        assert second.instance != first.instance
        assert far_part(second) == ["cpu"], "spread over the same nodes"
        assert len(nodes.workers()) == len(nodes.rpc_servers()) == 1, "nothing is left of the first"


async def test_a_worker_killed_with_its_guard_while_nobody_asks_is_noticed(
    nodes: TwoNodes, slow_gguf: Path
) -> None:
    await put_slow(nodes.yard, slow_gguf, profiles=(SPREAD,))
    async with watching(nodes.yard.bus) as instances:
        assert (await chat(nodes.yard.url, SLOW, max_tokens=2))[0] == 200
        (worker,) = nodes.workers()
        worker.kill()
        failed = await instances.until(SLOW, InstanceState.FAILED)
        assert failed.error == f"The worker on {FAR} is gone: it was killed, or its machine is gone."
        await nodes.until_no_workers(5)
        assert (await chat(nodes.yard.url, SLOW, max_tokens=2))[0] == 200, "planned anew"


async def test_the_workers_of_a_killed_runner_are_gone_within_seconds(
    nodes: TwoNodes, slow_gguf: Path
) -> None:
    await put_slow(nodes.yard, slow_gguf, profiles=(SPREAD,))
    async with watching(nodes.yard.bus) as instances:
        assert (await chat(nodes.yard.url, SLOW, max_tokens=2))[0] == 200
        instance = await instances.until(SLOW, InstanceState.READY)
        assert instance.pid is not None
        assert instance.engine_pid is not None
        engine_began = started_at(instance.engine_pid)
        assert engine_began is not None
        psutil.Process(instance.pid).kill()
        async with asyncio.timeout(6):
            await wait_until_gone(instance.engine_pid, engine_began)
            await nodes.until_no_workers(3)
        await instances.until(SLOW, InstanceState.FAILED)
