"""A real runner with an engine `command`: placement, requests over the queue, stop, crash, failed starts."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest

from modelyard.bus.micro import Commands
from modelyard.bus.reads import replay
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.processes import wait_until_gone
from schemas import buckets, subjects
from schemas.base import Role
from schemas.frames import AnswerHead
from schemas.instances import Instance, InstanceState, PlacedDevice, Placement
from schemas.models import ModelSpec
from services.gateway.catalog import Catalog
from services.gateway.inference.inference import Inference
from services.gateway.inference.queue import BudgetAdmission
from services.gateway.inference.request import InferRequest
from services.supervisor.runner.record import Launch
from tests import engine_standin
from tests.support import Yard

SPEC = ModelSpec(
    name="org/any",
    path="no/file",
    engine="command",
    args=(sys.executable, engine_standin.__file__, "{port}", "{name}"),
    health_path="/ready",
)
PLACEMENT = Placement(
    profile="small", devices=(PlacedDevice(device="cpu"),), n_ctx=1024, n_parallel=2, args=("{n_ctx}",)
)


class Running:
    """A runner's process and its record."""

    def __init__(
        self, yard: Yard, process: asyncio.subprocess.Process, instances: BucketCache[Instance]
    ) -> None:
        self.yard = yard
        self.process = process
        self.instances = instances

    async def state(self, state: InstanceState) -> Instance:
        """Its record, once it has this state."""
        async with asyncio.timeout(20):
            await self.instances.until(lambda values: "i1" in values and values["i1"].state is state)
        return self.instances.values["i1"]


@contextlib.asynccontextmanager
async def running(yard: Yard, spec: ModelSpec = SPEC) -> AsyncIterator[Running]:
    launch = Launch(instance="i1", spec=spec, revision=1, nats_url=yard.url, placement=PLACEMENT)
    with (yard.settings.logs / "runners.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.supervisor.runner"),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **yard.settings.as_environment()},
        )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(launch))
    process.stdin.close()
    async with Tasks() as tasks:
        instances = await BucketCache.start(await yard.bus(), buckets.INSTANCES, tasks)
        try:
            yield Running(yard, process, instances)
        finally:
            # A terminated runner also ends the children of its engine; there is no supervisor to do it.
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 20)


@contextlib.asynccontextmanager
async def gateway(yard: Yard) -> AsyncIterator[Inference]:
    await BucketStore(await yard.bus(Role.SUPERVISOR), buckets.MODELS).put("org=2Fany", SPEC)
    bus = await yard.bus(Role.GATEWAY)
    async with Tasks() as tasks:
        catalog = Catalog(
            await BucketCache.start(bus, buckets.MODELS, tasks),
            await BucketCache.start(bus, buckets.INSTANCES, tasks),
        )
        spending = await BucketCache.start(bus, buckets.SPENDING, tasks)
        inference = Inference(bus, tasks, catalog, BudgetAdmission(spending))
        await inference.open(await Commands.start(bus, tasks, "test"))
        yield inference


async def request(inference: Inference, path: str) -> tuple[AnswerHead, bytes]:
    body = b'{"model":"org/any","messages":[{"role":"user","content":"Hi"}]}'
    async with (
        asyncio.timeout(20),
        inference.submit(InferRequest(path=path, body=body, model="org/any", stream=False)) as answer,
    ):
        head = await answer.head()
        return head, b"".join([piece async for piece in answer.body()])


async def test_a_command_is_started_as_placed_and_serves_requests(yard: Yard) -> None:
    async with running(yard) as runner, gateway(yard) as inference:
        ready = await runner.state(InstanceState.READY)
        assert (ready.engine, ready.profile, ready.slots) == ("command", "small", 2)
        head, body = await request(inference, "/v1/chat/completions")
        assert head.status == 200
        answer = msgspec.json.decode(body)
        assert answer["choices"][0]["message"]["content"] == "org/any 1024 []"
        assert answer["usage"]["completion_tokens"] == 3


async def test_a_path_that_the_engine_lacks_is_refused_in_a_sentence(yard: Yard) -> None:
    async with running(yard) as runner, gateway(yard) as inference:
        await runner.state(InstanceState.READY)
        head, body = await request(inference, "/infill")
    error = msgspec.json.decode(body)["error"]
    assert head.status == 501
    assert (error["code"], error["type"]) == ("not_served", "invalid_request_error")
    assert error["message"] == "The engine of this model does not serve /infill."


async def worker_of(instance: Instance, yard: Yard) -> tuple[int, float]:
    """The child process of the engine, from its log, and its start time."""
    log = (yard.settings.logs / "i1.log").read_text()
    pid = int(log.split("worker ")[1].split()[0])
    assert instance.engine_pid is not None
    assert os.getpgid(pid) == instance.engine_pid
    return pid, psutil.Process(pid).create_time()


async def test_the_children_of_a_stopped_engine_are_ended(yard: Yard) -> None:
    async with running(yard) as runner:
        worker = await worker_of(await runner.state(InstanceState.READY), yard)
        runner.process.send_signal(signal.SIGTERM)
        await runner.state(InstanceState.STOPPED)
        async with asyncio.timeout(10):
            await wait_until_gone(*worker)
        assert await runner.process.wait() == 0


async def test_the_exit_of_an_engine_is_noticed_though_its_child_holds_the_pipe(yard: Yard) -> None:
    async with running(yard) as runner:
        ready = await runner.state(InstanceState.READY)
        worker = await worker_of(ready, yard)
        assert ready.engine_pid is not None
        os.kill(ready.engine_pid, signal.SIGKILL)
        failed = await runner.state(InstanceState.FAILED)
        assert "signal 9" in (failed.error or "")
        async with asyncio.timeout(10):
            await wait_until_gone(*worker)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"], ids=["still taken", "free again"])
async def test_an_engine_whose_port_was_taken_is_restarted(yard: Yard, tmp_path: Path, address: str) -> None:
    for name in ("port", "taken"):
        os.mkfifo(tmp_path / name)
    spec = msgspec.structs.replace(SPEC, env={"STANDIN_LOSES": str(tmp_path)})
    async with running(yard, spec) as runner:
        lost = int(await asyncio.to_thread((tmp_path / "port").read_text))
        (tmp_path / "port").unlink()
        with socket.create_server((address, lost)):
            await asyncio.to_thread((tmp_path / "taken").write_text, "")
            ready = await runner.state(InstanceState.READY)
        assert ready.port != lost
        events = replay(await yard.bus(), subjects.INSTANCE_CHANGED, follow=False)
        states = [event.payload.state async for event in events]
    assert states.count(InstanceState.LOADING) == 2


PLUGIN = """
from modelyard.plugins import Engine, EngineApi, ServerCommand, engine_environment


class Mine(Engine):
    name = "mine"
    needs_files = False

    def refusal(self, spec, model_format):
        return None

    def command(self, spec, files, placement, port, settings):
        argv = tuple(argument.replace("{port}", str(port)) for argument in spec.args)
        return ServerCommand(argv=argv, env=engine_environment(spec, placement))

    def api(self, spec):
        return EngineApi(health_path=spec.health_path)
"""


async def test_a_runner_uses_an_engine_of_the_plugin_folder(yard: Yard) -> None:
    plugin = yard.settings.engine_plugins / "mine.py"
    plugin.write_text(PLUGIN)
    plugin.chmod(0o600)
    async with running(yard, msgspec.structs.replace(SPEC, engine="mine")) as runner:
        assert (await runner.state(InstanceState.READY)).engine == "mine"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"args": ("surely-not-there", "{port}")}, "no program surely-not-there"),
        ({"args": (sys.executable, "{prot}{port}")}, "no placeholder"),
        ({"args": (sys.executable, "-c", "raise SystemExit('no luck')", "{port}")}, "no luck"),
        ({"health_path": "/nowhere", "start_budget_s": 1.0}, "did not get ready within 1 s"),
    ],
    ids=["program", "placeholder", "exit", "health"],
)
async def test_a_failed_start_has_a_reason(yard: Yard, changes: dict[str, object], reason: str) -> None:
    async with running(yard, msgspec.structs.replace(SPEC, **changes)) as runner:
        failed = await runner.state(InstanceState.FAILED)
    assert reason in (failed.error or "")


async def test_a_plugin_that_hangs_delays_neither_other_engines_nor_a_stop(yard: Yard) -> None:
    """A runner that waits for a plugin stops at once on SIGTERM."""
    plugin = yard.settings.engine_plugins / "mine.py"
    plugin.write_text(f"{PLUGIN}\nimport time\ntime.sleep(1000)\n")
    plugin.chmod(0o600)
    async with running(yard) as runner:
        await runner.state(InstanceState.READY)
    await BucketStore(await yard.bus(Role.RUNNER), buckets.INSTANCES).delete("i1")
    async with running(yard, msgspec.structs.replace(SPEC, engine="mine")) as runner:
        await runner.state(InstanceState.STARTING)
        runner.process.send_signal(signal.SIGTERM)
        await runner.state(InstanceState.STOPPED)
        assert await asyncio.wait_for(runner.process.wait(), 10) == 0
