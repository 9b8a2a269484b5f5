"""`yard up` as a user starts it: a real process, stopped by its own handle."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import nats.errors
import psutil

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings, load
from schemas import buckets, subjects
from schemas.base import Role
from schemas.instances import Instance, InstanceState
from schemas.models import ModelSpec
from tests.support import eventually

UP_S = 30.0


class YardProcess:
    """A running yard, its login, and its processes."""

    def __init__(self, home: Path, process: asyncio.subprocess.Process, screen: list[str], bus: Bus) -> None:
        self.home = home
        self.process = process
        self.screen = screen
        self.bus = bus

    @property
    def url(self) -> str:
        return self._shown("OpenAI base URL").removesuffix("/v1")

    @property
    def nats_url(self) -> str:
        return self._shown("NATS")

    @property
    def curl(self) -> str:
        return next(line.strip() for line in self.screen if line.strip().startswith("curl "))

    @property
    def models(self) -> Path:
        return self.home / "models"

    def _shown(self, label: str) -> str:
        line = next(line for line in self.screen if line.strip().startswith(label))
        return line.strip().removeprefix(label).strip()

    def processes(self) -> dict[int, psutil.Process]:
        """Every process of this home, with any parent."""
        processes = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                texts = [process.environ().get("YARD_HOME", ""), *process.cmdline()]
                if any(str(self.home) in text for text in texts):
                    processes[process.pid] = process
        return processes

    def service(self, name: str) -> psutil.Process:
        """The process of one service."""
        return next(
            process
            for process in self.processes().values()
            # Forked by `yard up`, it has its title in one argument.
            if " ".join(process.cmdline()).split()[-2:] == ["-m", f"services.{name}"]
        )

    async def put(self, spec: ModelSpec) -> None:
        await self.bus.call(subjects.MODEL_PUT, spec)

    async def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        await self.bus.close()
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), 30)

    async def kill_everything(self) -> None:
        """Kill every process of this home."""
        for process in self.processes().values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        await self.process.wait()


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user, with a home of its own and free ports."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("YARD_", "HF_"))}
    own = {
        "YARD_HOME": str(home),
        "YARD_PORT": "0",
        "YARD_NATS_PORT": "0",
        "YARD_NODE": "testnode",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "COLUMNS": "200",
    }
    return {**clean, **own, **more}


@contextlib.asynccontextmanager
async def running_yard(
    home: Path,
    *options: str,
    stdin: str = "",
    preexec_fn: Callable[[], None] | None = None,
    **more: str,
) -> AsyncIterator[YardProcess]:
    """Start `yard up` and wait for its banner; on exit interrupt it and wait for its end."""
    env = environment(home, **more)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "modelyard.cli",
        "up",
        *options,
        env=env,
        preexec_fn=preexec_fn,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    process.stdin.write(stdin.encode())
    process.stdin.close()
    screen = await asyncio.wait_for(_until_up(process), UP_S)
    reading = asyncio.create_task(_append_lines(process, screen))
    yard = YardProcess(home, process, screen, await _login(home, screen))
    try:
        yield yard
        await yard.interrupt()
        await reading
    finally:
        reading.cancel()
        await yard.bus.nc.close()
        await yard.kill_everything()


async def _until_up(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    screen: list[str] = []
    async for line in process.stdout:
        screen.append(line.decode().rstrip())
        if "Ctrl-C" in screen[-1]:
            return screen
    raise AssertionError("yard up ended:\n" + "\n".join(screen))


async def _append_lines(process: asyncio.subprocess.Process, screen: list[str]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        screen.append(line.decode().rstrip())


def settings_of(home: Path, nats_url: str) -> Settings:
    return load({"YARD_HOME": str(home), "YARD_NODE": "testnode", "YARD_NATS_URL": nats_url})


async def _login(home: Path, screen: list[str]) -> Bus:
    url = next(line.split()[-1] for line in screen if line.strip().startswith("NATS"))
    return await Bus.connect(settings_of(home, url), Role.OPERATOR, url=url)


class InstanceWatch:
    """The instances of a yard, followed."""

    def __init__(self, cache: BucketCache[Instance]) -> None:
        self.cache = cache

    def of(self, model: str) -> list[Instance]:
        return [instance for instance in self.cache.values.values() if instance.model == model]

    async def until(self, model: str, *states: InstanceState, timeout_s: float = 20.0) -> Instance:
        """Wait until an instance of `model` is in one of `states`."""
        async with asyncio.timeout(timeout_s):
            await self.cache.until(lambda _: any(i.state in states for i in self.of(model)))
        return next(instance for instance in self.of(model) if instance.state in states)


@contextlib.asynccontextmanager
async def watch_instances(bus: Bus) -> AsyncIterator[InstanceWatch]:
    async with Tasks() as tasks:
        yield InstanceWatch(await BucketCache.start(bus, buckets.INSTANCES, tasks))


async def busy_slots(port: int) -> int:
    """The number of busy slots, from the engine."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/slots") as response,
    ):
        return sum(slot["is_processing"] for slot in await response.json())


async def until_idle(port: int, timeout_s: float) -> None:
    """Wait until no slot of the engine is busy."""

    async def is_idle() -> bool:
        return not await busy_slots(port)

    await eventually(is_idle, "every slot of the engine is idle", timeout_s=timeout_s)


async def until_service_restarted(yard: YardProcess, name: str, old: int) -> None:
    """Wait until the killed service replies again as another process."""

    async def has_restarted() -> bool:
        try:
            await yard.bus.nc.request(f"$SRV.PING.{name}", b"", timeout=1)
            return yard.service(name).pid != old
        except (nats.errors.Error, psutil.Error, StopIteration):
            return False

    await eventually(has_restarted, f"a new {name} replies", timeout_s=20, every_s=0.05)


async def yard_command(yard: YardProcess, *arguments: str) -> tuple[int, str, str]:
    """Run a `yard` command: exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "modelyard.cli",
        *arguments,
        env=environment(yard.home),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
