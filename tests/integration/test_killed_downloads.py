"""kill -9 of the worker and of the downloader at random moments: correct bytes, hardly one sent twice.

`make endurance` kills 50 downloads.
"""

import asyncio
import contextlib
import hashlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from schemas.downloads import Download, DownloadState
from schemas.errors import DeadlineExceeded, ServiceUnavailable
from tests.commands import command_environment
from tests.endurance import rounds
from tests.hub import Hub, HubFile
from tests.integration.downloader_service import Queue, registry_and_watch
from tests.integration.downloads import MIB, model_bytes
from tests.support import Yard, eventually

ROUNDS = rounds(10, 50)
SIZE = 64 * MIB
BYTES_PER_S = 10 * MIB
"""Of each connection."""


class Service:
    """The downloader as a process that is restarted whenever it ends."""

    def __init__(self, yard: Yard, hub: Hub) -> None:
        hub_settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(yard.settings.home / "hf")}
        self._environment = command_environment(
            yard, YARD_NODE=yard.settings.node, YARD_DISK_MARGIN="0", **hub_settings
        )
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "services.downloader"),
                    env=self._environment,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                await self._process.wait()
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def kill_worker(self) -> None:
        """kill -9 of its children."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children():
                child.kill()


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        yield hub


@pytest.fixture
async def queue(yard: Yard) -> AsyncIterator[Queue]:
    async with registry_and_watch(yard) as queue:
        yield queue


@pytest.mark.timeout(30 + 20 * ROUNDS)
async def test_killed_downloads_finish_with_correct_bytes_sent_once(
    yard: Yard, hub: Hub, queue: Queue
) -> None:
    (yard.settings.run / "demo-registered").touch()
    service = Service(yard, hub)
    running = asyncio.create_task(service.run())
    ratios = []
    try:
        for number in range(ROUNDS):
            file = add_file(hub, number)
            download = await start_download(queue, f"org/m{number}")
            await kill_at_random(service, queue, hub, download, file, random.Random(number))
            await queue.until_state(download, DownloadState.FINISHED)
            assert sha256_of(yard.settings.models / "org" / f"m{number}" / "m-Q4_0.gguf") == file.sha256
            ratios.append(file.bytes_sent / SIZE)
            assert ratios[-1] <= 1.05, f"round {number}"
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    mean, most = sum(ratios) / ROUNDS, max(ratios)
    sys.stdout.write(f"{ROUNDS} rounds; bytes sent by file size: {mean:.4f} on average, {most:.4f} at most\n")


def add_file(hub: Hub, number: int) -> HubFile:
    hub.add_repo(f"org/m{number}", {"m-Q4_0.gguf": model_bytes(SIZE, seed=number)})
    file = hub.file(f"org/m{number}", "m-Q4_0.gguf")
    file.faults.bytes_per_s = BYTES_PER_S
    return file


async def start_download(queue: Queue, reference: str) -> Download:
    """Retried, since the downloader may be starting."""

    async def started() -> Download | None:
        with contextlib.suppress(ServiceUnavailable, DeadlineExceeded):
            return await queue.start(reference)
        return None

    download = await eventually(started, "a downloader accepts the download", every_s=0.05)
    assert download is not None
    return download


async def kill_at_random(
    service: Service, queue: Queue, hub: Hub, download: Download, file: HubFile, dice: random.Random
) -> None:
    """The worker, the downloader or both in turn, between the first byte and the last."""
    moments = sorted(dice.randrange(SIZE) for _ in range(dice.choice((1, 2))))
    for moment in moments:
        await hub.wait_until(lambda at=moment: file.bytes_sent >= at)  # type: ignore[misc]
        await asyncio.sleep(dice.random() * 0.1)
        dice.choice((service.kill, service.kill_worker))()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
