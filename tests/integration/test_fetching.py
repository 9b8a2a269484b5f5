"""Fetching by the scheduler: two nodes with their libraries, no hub, and no engine that works."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.errors import YardError
from schemas.instances import ClearNode, Instance, InstanceState, Node
from schemas.library import EntryFormat, JobState, LibraryEntry, StoreSpace, entry_id
from schemas.models import ModelRef, ModelSource, ModelSpec
from schemas.placement import GetNodeOptions, NodeOptions, Option, PlanQuery, WaitingModel
from schemas.profiles import Lora
from services.supervisor.fetching.fetcher import LibraryState, ModelFetcher
from services.supervisor.scheduler.node_client import NodeClient
from services.supervisor.service import main as supervisor
from tests.integration.library_yard import Shown, gguf, put, shown
from tests.integration.nodes import node, running
from tests.support import Yard

GIB = 2**30


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """An engine that exists and does not start."""
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return program


def entry(node: str, path: str) -> LibraryEntry:
    """A model in the library of a node."""
    return LibraryEntry(
        node=node,
        store="models",
        entry=entry_id(path),
        path=path,
        name="m",
        format=EntryFormat.GGUF,
        size_bytes=10,
        size="10 B",
        weights_bytes=10,
        n_files=1,
        modified_at=1.0,
    )


class Nodes:
    """Both nodes, by their buckets."""

    def __init__(
        self, seen: Shown, waiting: BucketCache[WaitingModel], instances: BucketCache[Instance]
    ) -> None:
        self.seen = seen
        self._waiting = waiting
        self.instances = instances

    async def put(self, spec: ModelSpec) -> None:
        await self.seen.bus.call(subjects.MODEL_PUT, spec)

    async def start(self, model: str) -> str:
        """Request a start; the state, or what it waits for, or the error."""
        try:
            started = await self.seen.bus.call(subjects.MODEL_START, ModelRef(model=model))
        except YardError as error:
            return error.message
        return started.reason or started.state

    async def reason(self, *texts: str) -> str:
        """The reason why a model waits, once it contains these texts."""
        found = await self._wait_for(lambda waiting: all(text in waiting.reason for text in texts))
        return found.reason

    async def refusal(self, model: str) -> str:
        """Why a model is refused, once it is."""
        waiting = await self._wait_for(lambda waiting: waiting.model == model and waiting.refused is not None)
        assert waiting.refused is not None
        return waiting.refused.error

    async def _wait_for(self, is_so: Callable[[WaitingModel], bool]) -> WaitingModel:
        async with asyncio.timeout(15):
            await self._waiting.until(lambda values: any(map(is_so, values.values())))
        return next(filter(is_so, self._waiting.values.values()))

    async def until(self, is_so: Callable[[Instance], bool]) -> Instance:
        async with asyncio.timeout(15):
            await self.instances.until(lambda values: any(map(is_so, values.values())))
        return next(filter(is_so, self.instances.values.values()))


@contextlib.asynccontextmanager
async def running_nodes(yard: Yard, *settings: Settings) -> AsyncIterator[Nodes]:
    """A supervisor and a downloader on each, all of them known before the block begins."""
    async with contextlib.AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(Tasks())
        for one in settings:
            await stack.enter_async_context(running(yard, one))
            await supervisor(await yard.bus(Role.SUPERVISOR), one, tasks)
        bus = await yard.bus(Role.GATEWAY)
        nodes: BucketCache[Node] = await BucketCache.start(bus, buckets.NODES, tasks)
        async with asyncio.timeout(10):
            await nodes.until(lambda known: len(known) == len(settings))
        waiting: BucketCache[WaitingModel] = await BucketCache.start(bus, buckets.WAITING, tasks)
        instances: BucketCache[Instance] = await BucketCache.start(bus, buckets.INSTANCES, tasks)
        operator = await yard.bus()
        for one in settings:
            cleared = functools.partial(operator.call, subjects.NODE_CLEAR, ClearNode(drain_s=0.0))
            stack.push_async_callback(cleared, node=one.node)
        yield Nodes(await stack.enter_async_context(shown(yard)), waiting, instances)


def small(yard: Yard, server: Path) -> Settings:
    """A node that no model fits."""
    limits = {"cpu": 1}
    return msgspec.structs.replace(
        node(yard, "a"), llama_server=server, memory_limits=limits, nats_url=yard.url
    )


def large(yard: Yard, server: Path, **more: object) -> Settings:
    chosen = {
        "llama_server": server,
        "memory_limits": {"cpu": 8 * GIB},
        "nats_url": yard.url,
        **more,
    }
    return msgspec.structs.replace(node(yard, "b"), **chosen)


async def test_all_files_of_a_model_are_copied_before_it_starts(yard: Yard, server: Path) -> None:
    a, b = small(yard, server), large(yard, server)
    files = {
        "org/v/v-Q4_0.gguf": gguf(),
        "org/v/v-Q8_0.gguf": gguf("another quant"),
        "org/v/mmproj-F16.gguf": gguf("projector"),
        "mine/lora.gguf": gguf("lora"),
    }
    for path, data in files.items():
        put(a.models, path, data)
    spec = ModelSpec(
        name="v",
        path="org/v/v-Q4_0.gguf",
        mmproj="org/v/mmproj-F16.gguf",
        loras=(Lora(path="mine/lora.gguf"),),
    )
    async with running_nodes(yard, a, b) as both:
        for path in (spec.path, "mine/lora.gguf"):
            await both.seen.at(path, "a")
        await both.put(spec)
        plan = await both.seen.bus.call(subjects.MODEL_PLAN, PlanQuery(model="v"))
        assert "its files are brought to b first" in plan.text
        await both.start("v")
        tried = await both.until(lambda one: one.state is InstanceState.FAILED)
        assert (tried.node, tried.engine) == ("b", "llama.cpp")
        for path in (spec.path, spec.mmproj, "mine/lora.gguf"):
            assert path is not None
            assert (b.models / path).read_bytes() == files[path]
        assert not (b.models / "org/v/v-Q8_0.gguf").exists(), "another quant is not needed"


async def test_a_failed_copy_is_a_refusal_and_retried_for_a_start_command(yard: Yard, server: Path) -> None:
    a, b = small(yard, server), large(yard, server, disk_margin_bytes=2**60)
    put(a.models, "m.gguf", gguf())
    async with running_nodes(yard, a, b) as both:
        await both.seen.at("m.gguf", "a")
        await both.put(ModelSpec(name="m", path="m.gguf"))
        await both.start("m")
        refusal = await both.refusal("m")
        assert "its files could not be brought to b" in refusal
        assert "free" in refusal
        jobs = both.seen.jobs.values
        assert [job.state for job in jobs.values()] == [JobState.FAILED]
        await both.start("m")
        async with asyncio.timeout(10):
            await both.seen.jobs.until(lambda values: len(values) == 2)


async def test_files_on_an_offline_node_are_a_refusal_or_waited_for(yard: Yard, server: Path) -> None:
    b = large(yard, server)
    away = entry("z", "m.gguf")
    library = BucketStore(await yard.bus(Role.DOWNLOADER), buckets.LIBRARY)
    async with running_nodes(yard, b) as one:
        await library.put(away.key, away)
        await one.put(ModelSpec(name="m", path="m.gguf"))
        await one.start("m")
        assert "its files are on z, which is away" in await one.refusal("m")
        repeated = entry("z", "org/m/m.gguf")
        await library.put(repeated.key, repeated)
        source = ModelSource(repo="org/m", revision="0" * 40)
        await one.put(ModelSpec(name="n", path="org/m/m.gguf", source=source))
        starting = asyncio.create_task(one.start("n"))
        assert "they are downloaded" in await one.reason("its files are on z, which is away; in ")
        assert "they are downloaded" in await starting, "accepted, with what it waits for"


async def test_a_node_that_leaves_during_a_scan_is_no_target_for_files(yard: Yard) -> None:
    """Its options are cached for some seconds, its record is not."""
    bus = await yard.bus(Role.SUPERVISOR)
    path, records = "m.gguf", BucketStore(bus, buckets.NODES)

    async def lacks(_query: GetNodeOptions) -> NodeOptions:
        return NodeOptions(options=(Option(node="b"),), problem="It lacks it.", missing=(path,), engine="e")

    async with Tasks() as tasks:
        commands = await Commands.start(bus, tasks, "A node.")
        await commands.add(subjects.NODE_OPTIONS, lacks, node="b")
        await records.put("b", Node(node="b", version="1", started_at=0.0))
        await BucketStore(bus, buckets.MODELS).put("m", ModelSpec(name="m", path=path))
        downloader = await yard.bus(Role.DOWNLOADER)
        for one in ("a", "b"):
            space = StoreSpace(node=one, store="models", path="/", default=True)
            await BucketStore(downloader, buckets.STORES).put(f"{one}.models", space, ttl_s=60)
        await BucketStore(downloader, buckets.LIBRARY).put((there := entry("a", path)).key, there)
        nodes: BucketCache[Node] = await BucketCache.start(bus, buckets.NODES, tasks)
        models: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
        client = NodeClient(bus, nodes, models)
        fetching = ModelFetcher(bus, tasks, client, await LibraryState.start(bus, tasks))
        spec = models.values["m"]
        await client.options(["m"], ())
        assert [option.source for option in (await fetching.scan([spec], {})).options["m"]] == ["a"]
        scanning = asyncio.create_task(fetching.scan([spec], {}))
        await records.delete("b")
        await nodes.until(lambda known: not known)
        await scanning
        assert (await fetching.scan([spec], {})).options["m"] == ()
