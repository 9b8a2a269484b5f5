"""Nodes on the test's broker, each with its own store, and a downloader in this process or another."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas.base import Role
from services.downloader.service import main
from tests.commands import command_environment
from tests.support import Yard


def node(yard: Yard, name: str) -> Settings:
    """The settings of a node `name`, with an empty store."""
    (yard.settings.run / "demo-registered").touch()
    store = yard.settings.home.parent / name
    store.mkdir(exist_ok=True)
    return msgspec.structs.replace(
        yard.settings, node=name, stores={"models": store}, joined=True, disk_margin_bytes=0
    )


@contextlib.asynccontextmanager
async def running(yard: Yard, settings: Settings) -> AsyncIterator[None]:
    """The downloader of a node, in this process."""
    bus = await Bus.connect(settings, Role.DOWNLOADER, url=yard.url)
    try:
        async with Tasks() as tasks:
            await main(bus, settings, tasks)
            yield
    finally:
        await bus.nc.close()


@contextlib.asynccontextmanager
async def process(yard: Yard, settings: Settings, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The downloader of a node as a process; SIGKILL at the end if it still runs."""
    with log.open("ab") as output:
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.downloader"),
            env=command_environment(yard, **settings.as_environment() | {"YARD_NATS_URL": yard.url}),
            stdout=output,
            stderr=output,
        )
    try:
        yield started
    finally:
        await killed(started)


async def killed(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
    await process.wait()


def spoiled(path: Path) -> None:
    """Other bytes, of the same size and time."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"wrong bytes")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
