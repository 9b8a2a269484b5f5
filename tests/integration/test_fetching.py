"""A scheduler that has files brought: two machines with their libraries, no hub, and no engine that works."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from modelyard.settings import Settings
from modelyard.state import Mirror, Store
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.errors import YardError
from schemas.instances import ClearNode, Instance, InstanceState, Node
from schemas.library import EntryFormat, JobState, LibraryEntry, entry_id
from schemas.models import ModelRef, ModelSpec, Source
from schemas.placing import PlanQuery, WaitingModel
from schemas.profiles import Lora
from schemas.roles import Role
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
    """An engine that is there, and does not come up."""
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return program


class Machines:
    """Both machines, as everybody sees them."""

    def __init__(self, seen: Shown, waits: Mirror[WaitingModel], instances: Mirror[Instance]) -> None:
        self.seen = seen
        self._waits = waits
        self.instances = instances

    async def put(self, spec: ModelSpec) -> None:
        await self.seen.bus.call(subjects.MODEL_PUT, spec)

    async def start(self, model: str) -> str:
        """Ask for a start; what is said to that."""
        try:
            started = await self.seen.bus.call(subjects.MODEL_START, ModelRef(model=model))
        except YardError as error:
            return error.message
        return started.state

    async def reason(self, *words: str) -> str:
        """The reason why a model waits, as soon as it has these words in it."""

        def has_words(values: dict[str, WaitingModel]) -> bool:
            return any(all(word in one.reason for word in words) for one in values.values())

        async with asyncio.timeout(15):
            await self._waits.until(has_words)
        return next(one.reason for one in self._waits.values.values() if words[0] in one.reason)

    async def until(self, is_so: Callable[[Instance], bool]) -> Instance:
        async with asyncio.timeout(15):
            await self.instances.until(lambda values: any(map(is_so, values.values())))
        return next(filter(is_so, self.instances.values.values()))


@contextlib.asynccontextmanager
async def machines(yard: Yard, *settings: Settings) -> AsyncIterator[Machines]:
    """A supervisor and a downloader on each, all of them known before the block begins."""
    async with contextlib.AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(Tasks())
        for one in settings:
            await stack.enter_async_context(running(yard, one))
            await supervisor(await yard.bus(Role.SUPERVISOR), one, tasks)
        bus = await yard.bus(Role.GATEWAY)
        nodes: Mirror[Node] = await Mirror.start(bus, buckets.NODES, tasks)
        async with asyncio.timeout(10):
            await nodes.until(lambda known: len(known) == len(settings))
        waits: Mirror[WaitingModel] = await Mirror.start(bus, buckets.WAITS, tasks)
        instances: Mirror[Instance] = await Mirror.start(bus, buckets.INSTANCES, tasks)
        operator = await yard.bus()
        for one in settings:
            cleared = functools.partial(operator.call, subjects.NODE_CLEAR, ClearNode(drain_s=0.0))
            stack.push_async_callback(cleared, node=one.node)
        yield Machines(await stack.enter_async_context(shown(yard)), waits, instances)


def small(yard: Yard, server: Path) -> Settings:
    """A machine that no model fits."""
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


async def test_all_that_a_model_needs_comes_and_then_it_starts(yard: Yard, server: Path) -> None:
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
    async with machines(yard, a, b) as both:
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


async def test_a_copy_that_cannot_be_is_told_and_tried_again_when_somebody_asks(
    yard: Yard, server: Path
) -> None:
    a, b = small(yard, server), large(yard, server, disk_margin_bytes=2**60)
    put(a.models, "m.gguf", gguf())
    async with machines(yard, a, b) as both:
        await both.seen.at("m.gguf", "a")
        await both.put(ModelSpec(name="m", path="m.gguf"))
        await both.start("m")
        refused = await both.until(lambda one: one.state is InstanceState.FAILED)
        assert "its files could not be brought to b" in (refused.error or "")
        assert "free" in (refused.error or "")
        jobs = both.seen.jobs.values
        assert [job.state for job in jobs.values()] == [JobState.FAILED]
        await both.start("m")
        async with asyncio.timeout(10):
            await both.seen.jobs.until(lambda values: len(values) == 2)


async def test_what_only_a_machine_has_that_is_away_is_said_so(yard: Yard, server: Path) -> None:
    b = large(yard, server)
    away = LibraryEntry(
        node="z",
        store="models",
        entry=entry_id("m.gguf"),
        path="m.gguf",
        name="m",
        format=EntryFormat.GGUF,
        size_bytes=10,
        size="10 B",
        weights_bytes=10,
        n_files=1,
        modified_at=1.0,
    )
    library = Store(await yard.bus(Role.DOWNLOADER), buckets.LIBRARY)
    async with machines(yard, b) as one:
        await library.put(away.key, away)
        await one.put(ModelSpec(name="m", path="m.gguf"))
        await one.start("m")
        refused = await one.until(lambda one: one.state is InstanceState.FAILED)
        assert "its files are on z, which is away" in (refused.error or "")
        repeated = msgspec.structs.replace(away, path="org/m/m.gguf", entry=entry_id("org/m/m.gguf"))
        await library.put(repeated.key, repeated)
        source = Source(repo="org/m", revision="0" * 40)
        await one.put(ModelSpec(name="n", path="org/m/m.gguf", source=source))
        asking = asyncio.create_task(one.start("n"))
        assert "they are downloaded" in await one.reason("its files are on z, which is away; in ")
        assert "not started yet" in await asking
