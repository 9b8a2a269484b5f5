"""Starts that fail, are stopped early, or have to wait."""

import asyncio
import os
import sys

import pytest

from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.files.tinymodels import DEMO_SENTENCE, write_reciter
from modelyard.host.home import AlreadyRunning, lock
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.downloads import StartDownload
from schemas.instances import InstanceState, Reason
from schemas.models import ModelRef, ModelSpec
from services.downloader.service import main as downloader
from services.supervisor.service import main as supervisor
from tests.commands import command_environment, run_command
from tests.standins import Services
from tests.support import Yard


async def test_a_download_whose_worker_cannot_be_started_fails(yard: Yard, settings: Settings) -> None:
    (settings.run / "demo-registered").touch()
    (settings.logs / "downloads.log").mkdir()
    operator = await yard.bus()
    ended = await operator.nc.subscribe(subjects.DOWNLOAD_CHANGED.matching(state="failed"))
    async with Tasks() as tasks:
        await downloader(await yard.bus(Role.DOWNLOADER), settings, tasks)
        await operator.call(subjects.DOWNLOAD_START, StartDownload(reference="org/name"))
        failed = subjects.DOWNLOAD_CHANGED.decode((await ended.next_msg(timeout=10)).data)
    assert failed.error is not None
    assert "could not be started" in failed.error.message


async def test_a_model_whose_runner_cannot_be_started_fails(yard: Yard, settings: Settings) -> None:
    (settings.logs / "runners.log").mkdir()
    write_reciter(settings.models / "demo.gguf", DEMO_SENTENCE)
    operator = await yard.bus()
    async with Tasks() as tasks:
        await supervisor(await yard.bus(Role.SUPERVISOR), settings, tasks)
        instances = await BucketCache.start(operator, buckets.INSTANCES, tasks)
        await operator.call(subjects.MODEL_PUT, ModelSpec(name="demo", path="demo.gguf"))
        starting = asyncio.create_task(operator.call(subjects.MODEL_START, ModelRef(model="demo")))
        async with asyncio.timeout(10):
            await instances.until(
                lambda values: any(i.state is InstanceState.FAILED for i in values.values())
            )
        (failed,) = instances.values.values()
        starting.cancel()
    assert "could not be started" in (failed.error or "")
    assert failed.retry_at is not None


async def test_a_second_supervisor_of_a_home_waits_until_the_first_has_ended(yard: Yard) -> None:
    """Both answered for the node, each with reservations of its own, and took each other's lease."""
    held = lock(yard.settings, "supervisor.lock")
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        lock(yard.settings, "supervisor.lock")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.supervisor"),
        env=command_environment(yard, YARD_NODE=yard.settings.node),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(30):
            assert b"home_locked" in await line_with(process, b"home_locked", b"service_ready")
            held.close()
            assert b"service_ready" in await line_with(process, b"service_ready")
    finally:
        process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, *events: bytes) -> bytes:
    """The first line of its log with one of these events."""
    assert process.stdout is not None
    async for line in process.stdout:
        if any(event in line for event in events):
            return line
    raise AssertionError("it ended")


async def test_a_runner_stopped_before_it_handles_signals_has_not_failed(
    yard: Yard, settings: Settings
) -> None:
    """SIGTERM ends Python at once until a handler is set; that counted as a failure, with a pause."""
    operator = await yard.bus()
    model = ModelSpec(name="m", path="none", engine="command", args=(sys.executable, "-c", "{port}"))
    events = await operator.nc.subscribe(subjects.INSTANCE_CHANGED.wildcard)
    async with Tasks() as tasks, asyncio.timeout(20):
        await supervisor(await yard.bus(Role.SUPERVISOR), settings, tasks)
        await operator.call(subjects.MODEL_PUT, model)
        starting = asyncio.create_task(operator.call(subjects.MODEL_START, ModelRef(model="m")))
        first = subjects.INSTANCE_CHANGED.decode((await events.next_msg(timeout=10)).data)
        assert first.state is InstanceState.STARTING
        await operator.call(subjects.MODEL_STOP, ModelRef(model="m"))
        last = first
        while last.state not in (InstanceState.STOPPED, InstanceState.FAILED):
            last = subjects.INSTANCE_CHANGED.decode((await events.next_msg(timeout=15)).data)
        starting.cancel()
    assert (last.state, last.reason, last.failures) == (InstanceState.STOPPED, Reason.REQUESTED, 0)


async def test_yard_start_shows_what_a_start_waits_for_and_waits_on(yard: Yard, standins: Services) -> None:
    standins.supervisor.waiting["demo"] = "its memory is held by other"
    accepted = await run_command(yard, "start", "demo", "--no-wait")
    assert (accepted.code, accepted.out) == (0, "demo is waiting: its memory is held by other.\n")
    standins.supervisor.waiting["demo"] = "its memory is held by other"
    document = (await run_command(yard, "start", "demo", "--no-wait", "--json")).document
    assert (document["state"], document["reason"]) == ("waiting", "its memory is held by other")
    standins.supervisor.waiting["demo"] = "its memory is held by other"
    ready = await run_command(yard, "start", "demo")
    assert (ready.code, ready.err) == (0, "")
    first, *_, last = ready.out.splitlines()
    assert first == "demo waits: its memory is held by other."
    assert last.startswith("demo is ready")
