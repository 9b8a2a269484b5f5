"""Repeated starts and stops leak no process, port, file, consumer or run file."""

import asyncio
import contextlib
from collections.abc import Iterable

import psutil
import pytest

from modelyard.bus.connection import Bus
from schemas import buckets, streams, subjects
from schemas.base import Record
from schemas.instances import InstanceState
from schemas.models import ModelRef
from tests.e2e.chat_client import chat
from tests.e2e.instance_history import InstanceHistory, record_instances
from tests.e2e.models import scripted_model
from tests.e2e.yard_process import YardProcess
from tests.endurance import rounds
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
S = InstanceState
AT_ONCE = 4
EACH = rounds(6, 50)
"""Starts and stops of each model."""


class Resources(Record):
    """Resources of a yard without live instances."""

    processes: frozenset[int]
    listening: frozenset[int]
    """Ports."""
    supervisor_files: int
    """Open files and sockets of the supervisor."""
    consumers: dict[str, int]
    """By stream."""
    run_files: frozenset[str]


async def resources(yard: YardProcess) -> Resources:
    processes = yard.processes()
    return Resources(
        processes=frozenset(processes),
        listening=frozenset(port for process in processes.values() for port in _ports(process)),
        supervisor_files=yard.service("supervisor").num_fds(),
        consumers={name: await _consumers(yard.bus, name) for name in _streams()},
        run_files=frozenset(path.name for path in (yard.home / "run").iterdir()),
    )


def _ports(process: psutil.Process) -> Iterable[int]:
    with contextlib.suppress(psutil.Error):
        return [
            connection.laddr.port
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
    return []


def _streams() -> list[str]:
    """Streams that runners and supervisors read."""
    return [
        streams.INFER.name,
        streams.EVENTS.name,
        streams.LOGS.name,
        *(bucket.stream for bucket in buckets.ALL),
    ]


async def _consumers(bus: Bus, stream: str) -> int:
    info = await bus.js.stream_info(stream)
    return info.state.consumer_count


async def cycle(yard: YardProcess, history: InstanceHistory, model: str, times: range) -> None:
    """Start the model, get an answer, stop it and wait until it has stopped."""
    for number in times:
        await yard.bus.call(subjects.MODEL_START, ModelRef(model=model))
        await history.reached(model, S.READY, count=number)
        assert (await chat(yard.url, model))[0] == 200
        await yard.bus.call(subjects.MODEL_STOP, ModelRef(model=model))
        await history.reached(model, S.STOPPED, count=number)


async def resources_at_rest(yard: YardProcess) -> Resources:
    """Resources once they no longer change: a runner exits after its last record."""
    samples: list[Resources] = []

    async def unchanged() -> Resources | None:
        samples.append(await resources(yard))
        has_runner = any(name.startswith("runner-") for name in samples[-1].run_files)
        return samples[-1] if samples[-1:] == samples[-2:-1] and not has_runner else None

    return await eventually(unchanged, "resources stay the same", timeout_s=30, every_s=0.5)


def assert_no_leak(after: Resources, before: Resources) -> None:
    """Resources needed only at the start of a service may be gone."""
    assert after.processes == before.processes
    assert after.listening == before.listening
    assert after.run_files == before.run_files
    assert after.supervisor_files <= before.supervisor_files
    more = {name for name, count in after.consumers.items() if count > before.consumers[name]}
    assert not more


@pytest.mark.timeout(600)
async def test_concurrent_starts_and_stops_leak_nothing(yard: YardProcess) -> None:
    models = [f"test/cycle-{number}" for number in range(AT_ONCE)]
    async with record_instances(yard.bus) as history:
        for model in models:
            await yard.put(scripted_model(model))
        # The first cycle creates what is created once.
        await asyncio.gather(*(cycle(yard, history, model, range(1, 2)) for model in models))
        before = await resources_at_rest(yard)
        await asyncio.gather(*(cycle(yard, history, model, range(2, 2 + EACH)) for model in models))
        assert_no_leak(await resources_at_rest(yard), before)
        assert not history.of(models[0], S.FAILED)


@pytest.mark.timeout(300)
async def test_twenty_starts_and_stops_of_a_real_engine_leak_nothing(yard: YardProcess) -> None:
    async with record_instances(yard.bus) as history:
        await cycle(yard, history, "demo", range(1, 2))
        before = await resources_at_rest(yard)
        await cycle(yard, history, "demo", range(2, 22))
        assert_no_leak(await resources_at_rest(yard), before)
