"""A downloader that is killed in the middle of the library's work, and what its successor makes of it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from modelyard.host.settings import Settings
from schemas import subjects
from schemas.errors import DeadlineExceeded, NotFound, ServiceUnavailable
from schemas.library import DeleteEntry, FindOnNode, JobRef, JobState, LibraryJob, LibraryRef, TrashRef
from services.downloader.library import trash
from tests.commands import command_environment
from tests.integration.library_yard import Shown, gguf, put, shown
from tests.support import Yard, eventually


@contextlib.asynccontextmanager
async def downloader(yard: Yard) -> AsyncIterator[asyncio.subprocess.Process]:
    """The real process, killed at the end if it still lives."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.downloader"),
        env=command_environment(yard, YARD_NODE="testnode"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def ready(seen: Shown) -> None:
    """Wait until a downloader answers all commands of the library; the one to cancel jobs is its last."""

    async def answers() -> bool:
        with contextlib.suppress(ServiceUnavailable, DeadlineExceeded):
            await seen.bus.call(subjects.LIBRARY_SCAN, FindOnNode())
            with contextlib.suppress(NotFound):
                await seen.bus.call(subjects.LIBRARY_CANCEL, JobRef(job="unknown"))
            return True
        return False

    await eventually(answers, "an answer of the downloader", timeout_s=20)


async def kill(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def test_a_killed_verification_resumes(yard: Yard, settings: Settings) -> None:
    (settings.run / "demo-registered").touch()
    large = put(settings.models, "m.gguf", gguf())
    os.truncate(large, 3 * 1024**3)
    running: asyncio.Future[LibraryJob] = asyncio.get_running_loop().create_future()

    async def on_progress(_: dict[str, str], job: LibraryJob) -> None:
        if job.bytes_done and not running.done():
            running.set_result(job)

    async with shown(yard) as seen:
        await seen.bus.subscribe(subjects.LIBRARY_JOB_PROGRESS, on_progress)
        async with downloader(yard) as first:
            await ready(seen)
            entry = await seen.by_itself("m.gguf")
            job = await seen.bus.call(subjects.LIBRARY_VERIFY, LibraryRef(entry=entry.key))
            async with asyncio.timeout(20):
                await running
            await kill(first)
        os.truncate(large, len(gguf()))
        async with downloader(yard):
            assert (await seen.ended(job)).state is JobState.FINISHED


async def test_a_killed_deletion_completes_and_can_be_restored(yard: Yard, settings: Settings) -> None:
    (settings.run / "demo-registered").touch()
    root, count = settings.models, 4000
    put(root, "org/repo/m.gguf", gguf())
    for number in range(count):
        put(root, f"org/repo/notes/{number}.txt", b"%d" % number)
    async with shown(yard) as seen:
        async with downloader(yard) as first:
            await ready(seen)
            entry = await seen.by_itself("org/repo/m.gguf")
            deleting = asyncio.ensure_future(
                seen.bus.call(subjects.LIBRARY_DELETE, DeleteEntry(entry=entry.key), timeout_s=5)
            )
            await _until_some_moved(root)
            await kill(first)
            with contextlib.suppress(DeadlineExceeded):
                await deleting
        async with downloader(yard):
            await ready(seen)
            item = await seen.item()
            assert not (root / "org").exists()
            assert len(list((root / trash.FOLDER).rglob("*.txt"))) == count
            await seen.bus.call(subjects.LIBRARY_RESTORE, TrashRef(item=item.key))
    numbers = sorted(int(path.read_bytes()) for path in (root / "org/repo/notes").iterdir())
    assert numbers == list(range(count))


async def _until_some_moved(root: Path) -> None:
    async with asyncio.timeout(20):
        while not list((root / trash.FOLDER).glob("*/files")):
            await asyncio.sleep(0)
