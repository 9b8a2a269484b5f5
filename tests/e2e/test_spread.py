"""One model on two nodes: llama-server on one, some layers in a worker on the other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from modelyard.cli.nodes import row_of
from modelyard.files.tinymodels import DEMO_SENTENCE, write_reciter
from modelyard.host.processes import started_at, wait_until_gone
from schemas import subjects
from schemas.instances import Instance, InstanceState
from schemas.models import ModelRef, ModelSpec
from schemas.profiles import DeviceNeed, Profile, WorkerNeed
from tests.e2e.chat_client import chat, streaming
from tests.e2e.models import SLOW, put_slow
from tests.e2e.two_nodes import FAR, TwoNodes, two_nodes
from tests.e2e.yard_process import watch_instances

SPREAD = Profile(name="spread", devices=(DeviceNeed(device="cpu"),), workers=(WorkerNeed(),))


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[TwoNodes]:
    async with two_nodes(tmp_path) as started:
        yield started


def far_part(instance: Instance) -> list[str]:
    return [memory.device for memory in instance.reserved if memory.node == FAR]


async def test_a_model_on_two_nodes_answers_and_its_worker_ends_with_it(nodes: TwoNodes) -> None:
    write_reciter(nodes.yard.models / "reciter.gguf", DEMO_SENTENCE)
    await nodes.yard.put(ModelSpec(name="reciter", path="reciter.gguf", n_ctx=512, profiles=(SPREAD,)))
    async with watch_instances(nodes.yard.bus) as instances:
        status, answer = await chat(nodes.yard.url, "reciter", temperature=0)
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"].strip() == DEMO_SENTENCE
        instance = await instances.until("reciter", InstanceState.READY)
        assert far_part(instance) == ["cpu"], "the memory of the worker is reserved"
        assert len(nodes.rpc_servers()) == 1
        await nodes.nodes.until(lambda known: len(known[FAR].workers) == 1)
        assert nodes.nodes.values[FAR].workers[0].instance == instance.instance
        far = row_of(nodes.nodes.values[FAR], instances.cache.values.values())
        assert [(worker["model"], worker["device"]) for worker in far["workers"]] == [("reciter", "cpu")]
        reserved = {device["device"]: device["reserved_bytes"] for device in far["devices"]}
        assert reserved["cpu"] == nodes.nodes.values[FAR].workers[0].memory_bytes > 0
        await nodes.yard.bus.call(subjects.MODEL_STOP, ModelRef(model="reciter"))
        await nodes.until_no_workers(10)


async def test_a_killed_worker_fails_its_instance_and_the_stream_continues(
    nodes: TwoNodes, slow_gguf: Path
) -> None:
    await put_slow(nodes.yard, slow_gguf, profiles=(SPREAD,))
    async with (
        watch_instances(nodes.yard.bus) as instances,
        streaming(nodes.yard.url, SLOW, max_tokens=60) as stream,
    ):
        await stream.read_tokens(5)
        first = await instances.until(SLOW, InstanceState.READY)
        (server,) = nodes.rpc_servers()
        server.kill()
        failed = await instances.until(SLOW, InstanceState.FAILED)
        assert failed.instance == first.instance
        assert failed.error == f"The worker on {FAR} is lost: its RPC server was ended by signal 9."
        lines = await stream.read_rest()
        assert lines[-1] == "[DONE]", "answered by the next instance"
        second = await instances.until(SLOW, InstanceState.READY)
        assert second.instance != first.instance
        assert far_part(second) == ["cpu"], "spread over the same nodes"
        assert len(nodes.workers()) == len(nodes.rpc_servers()) == 1, "the first worker has ended"


async def test_a_killed_guard_of_an_idle_worker_fails_its_instance(nodes: TwoNodes, slow_gguf: Path) -> None:
    await put_slow(nodes.yard, slow_gguf, profiles=(SPREAD,))
    async with watch_instances(nodes.yard.bus) as instances:
        assert (await chat(nodes.yard.url, SLOW, max_tokens=2))[0] == 200
        (worker,) = nodes.workers()
        worker.kill()
        failed = await instances.until(SLOW, InstanceState.FAILED)
        assert failed.error == f"The worker on {FAR} is lost: it was killed, or its machine is unreachable."
        await nodes.until_no_workers(5)
        assert (await chat(nodes.yard.url, SLOW, max_tokens=2))[0] == 200, "planned again"


async def test_the_workers_of_a_killed_runner_end_within_seconds(nodes: TwoNodes, slow_gguf: Path) -> None:
    await put_slow(nodes.yard, slow_gguf, profiles=(SPREAD,))
    async with watch_instances(nodes.yard.bus) as instances:
        assert (await chat(nodes.yard.url, SLOW, max_tokens=2))[0] == 200
        instance = await instances.until(SLOW, InstanceState.READY)
        assert instance.pid is not None
        assert instance.engine_pid is not None
        engine_started_at = started_at(instance.engine_pid)
        assert engine_started_at is not None
        psutil.Process(instance.pid).kill()
        async with asyncio.timeout(6):
            await wait_until_gone(instance.engine_pid, engine_started_at)
            await nodes.until_no_workers(3)
        await instances.until(SLOW, InstanceState.FAILED)
