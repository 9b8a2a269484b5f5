"""The process that forks the services of `yard up`: starts, exits, signals, and its own death."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from modelyard.host.processes import EXIT_CONFIG, started_at
from modelyard.up.child import Child, Process, StartupError, execute
from modelyard.up.prefork import Prefork
from schemas.base import Role
from tests.support import Yard, eventually


@pytest.fixture
async def prefork(yard: Yard, tmp_path: Path) -> AsyncIterator[Prefork]:
    environment = {**os.environ, **yard.settings.as_environment(), "YARD_NATS_URL": yard.url}
    forking = Prefork(environment, tmp_path / "prefork.log")
    yield forking
    await forking.close()


async def test_a_forked_service_has_its_own_session_title_log_and_files(
    prefork: Prefork, tmp_path: Path
) -> None:
    log = tmp_path / "monitor.log"
    process = await prefork.start(Role.MONITOR, log)
    await eventually(lambda: "service_ready" in log.read_text(), "the monitor is ready")
    forked = psutil.Process(process.pid)
    assert " ".join(forked.cmdline()).split()[-2:] == ["-m", "services.monitor"]
    assert os.getsid(process.pid) == process.pid
    assert forked.environ()["YARD_HOME"]
    parent = forked.parent()
    assert parent is not None
    pipes = {Path(f"/proc/{parent.pid}/fd/{number}").readlink() for number in (0, 1)}
    opened = {entry.readlink() for entry in Path(f"/proc/{process.pid}/fd").iterdir() if entry.exists()}
    assert not pipes & opened, "it cannot write to `yard up` in the name of the forking process"
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert not psutil.pid_exists(process.pid)
    process.send_signal(signal.SIGTERM)


async def test_the_exit_code_of_a_service_is_reported(yard: Yard, tmp_path: Path) -> None:
    prefork = Prefork(
        {**os.environ, "YARD_HOME": str(tmp_path), "YARD_PORT": "web"}, tmp_path / "prefork.log"
    )
    log = tmp_path / "gateway.log"
    assert await (await prefork.start(Role.GATEWAY, log)).wait() == EXIT_CONFIG
    assert "YARD_PORT" in log.read_text()
    killed = await prefork.start(Role.MONITOR, tmp_path / "monitor.log")
    killed.send_signal(signal.SIGKILL)
    assert await killed.wait() in (-signal.SIGKILL, EXIT_CONFIG)
    await prefork.close()


async def test_services_end_with_the_killed_forking_process_and_start_again(
    prefork: Prefork, tmp_path: Path
) -> None:
    log = tmp_path / "monitor.log"
    first = await prefork.start(Role.MONITOR, log)
    await eventually(lambda: "service_ready" in log.read_text(), "the monitor is ready")
    parent = psutil.Process(first.pid).parent()
    assert parent is not None
    parent.kill()
    assert await first.wait() == -signal.SIGTERM
    second = await prefork.start(Role.MONITOR, log)
    await eventually(lambda: log.read_text().count("service_ready") == 2, "the second monitor is ready")
    assert second.returncode is None
    assert started_at(first.pid) is None


async def test_a_start_fails_when_the_forking_process_is_killed_meanwhile(
    prefork: Prefork, tmp_path: Path
) -> None:
    log = tmp_path / "monitor.log"
    parent = psutil.Process((await prefork.start(Role.MONITOR, log)).pid).parent()
    assert parent is not None
    parent.suspend()
    starting = asyncio.create_task(prefork.start(Role.MONITOR, log))
    await asyncio.sleep(0)
    parent.kill()
    with pytest.raises(StartupError, match=r"prefork\.log"):
        await asyncio.wait_for(starting, 10)


async def test_a_service_is_started_again_after_a_start_that_failed(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    argv = [[sys.executable, "-c", ""], None, [sys.executable, "-c", "import time; time.sleep(1000)"]]

    async def start() -> Process:
        if (program := argv.pop(0)) is None:
            raise StartupError("The forking process was killed.")
        return await execute(program, os.environ, log)

    child = Child("service", log, start)
    await child.start()
    keeping = asyncio.create_task(child.keep_running())
    await eventually(lambda: keeping.done() or not argv, "it is started a third time")
    assert not keeping.done()
    await child.stop(5.0)
    assert await asyncio.wait_for(keeping, 5) == -signal.SIGTERM
