"""Starting and stopping, again and again: nothing may be left of any of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import psutil
import pytest
import pytest_asyncio

from modelyard.bus.connection import Bus
from schemas import buckets, streams, subjects
from schemas.base import Record
from schemas.instances import InstanceState
from schemas.models import ModelRef
from tests.e2e.chatting import chat
from tests.e2e.living import Story, lively, told
from tests.e2e.yard_process import YardProcess, running_yard
from tests.endurance import rounds

pytestmark = pytest.mark.asyncio(loop_scope="module")
S = InstanceState
AT_ONCE = 4
EACH = rounds(6, 50)
"""Starts and stops of each of them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[YardProcess]:
    async with running_yard(tmp_path_factory.mktemp("yard") / "home") as yard:
        yield yard


class Left(Record):
    """What is there of a yard when no instance lives."""

    processes: frozenset[int]
    listening: frozenset[int]
    """Ports."""
    supervisor_files: int
    """Open files and sockets of the supervisor."""
    consumers: dict[str, int]
    """By stream."""
    run_files: frozenset[str]


async def left(yard: YardProcess) -> Left:
    processes = yard.processes()
    return Left(
        processes=frozenset(processes),
        listening=frozenset(port for process in processes.values() for port in _ports(process)),
        supervisor_files=yard.service("supervisor").num_fds(),
        consumers={name: await _consumers(yard.bus, name) for name in _streams()},
        run_files=frozenset(path.name for path in (yard.home / "run").iterdir()),
    )


def _ports(process: psutil.Process) -> Iterable[int]:
    with contextlib.suppress(psutil.Error):
        return [one.laddr.port for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
    return []


def _streams() -> list[str]:
    """Those that a runner or its supervisor reads."""
    return [streams.INFER.name, streams.EVENTS.name, streams.LOGS.name, *(one.stream for one in buckets.ALL)]


async def _consumers(bus: Bus, stream: str) -> int:
    info = await bus.js.stream_info(stream)
    return info.state.consumer_count


async def cycle(yard: YardProcess, story: Story, model: str, times: range) -> None:
    """Start it, have it answer, stop it, wait until it is gone."""
    for number in times:
        await yard.bus.call(subjects.MODEL_START, ModelRef(model=model))
        await story.step(model, S.READY, count=number)
        assert (await chat(yard.url, model))[0] == 200
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model=model))
        await story.step(model, S.STOPPED, count=number)


async def at_rest(yard: YardProcess) -> Left:
    """What is there once nothing changes any more: who wrote his last record still has to leave."""
    before, now = None, await left(yard)
    async with asyncio.timeout(30):
        while now != before or any(name.startswith("runner-") for name in now.run_files):
            await asyncio.sleep(0.5)
            before, now = now, await left(yard)
    return now


def assert_no_more(after: Left, before: Left) -> None:
    """What a service needed at its start only may be gone meanwhile."""
    assert after.processes == before.processes
    assert after.listening == before.listening
    assert after.run_files == before.run_files
    assert after.supervisor_files <= before.supervisor_files
    more = {name for name, count in after.consumers.items() if count > before.consumers[name]}
    assert not more


@pytest.mark.timeout(600)
async def test_many_starts_and_stops_leave_nothing_behind(yard: YardProcess) -> None:
    models = [f"test/cycle-{number}" for number in range(AT_ONCE)]
    async with told(yard.bus) as story:
        for model in models:
            await yard.put(lively(model))
        # The first one makes what is made once.
        await asyncio.gather(*(cycle(yard, story, model, range(1, 2)) for model in models))
        before = await at_rest(yard)
        await asyncio.gather(*(cycle(yard, story, model, range(2, 2 + EACH)) for model in models))
        assert_no_more(await at_rest(yard), before)
        assert not story.of(models[0], S.FAILED)


@pytest.mark.timeout(300)
async def test_twenty_starts_and_stops_of_a_real_engine_leave_nothing_behind(yard: YardProcess) -> None:
    async with told(yard.bus) as story:
        await cycle(yard, story, "demo", range(1, 2))
        before = await at_rest(yard)
        await cycle(yard, story, "demo", range(2, 22))
        assert_no_more(await at_rest(yard), before)
