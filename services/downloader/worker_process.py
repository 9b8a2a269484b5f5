"""A transfer's process as the service sees it: started with a job, read message by message, ended at will."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from services.downloader.worker_messages import MESSAGE_DECODER, Job, WorkerMessage

_LINE_LIMIT_BYTES = 16 * 1024 * 1024


class WorkerDied(Exception):
    """It ended without a verdict: killed, most likely. What it fetched is on disk."""


async def run_worker(job: Job, log: Path) -> AsyncGenerator[WorkerMessage, None]:
    """Start a worker and give out its messages; leaving the loop kills it. WorkerDied without a verdict."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.downloader.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=dict(os.environ),
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        verdict = False
        async for line in process.stdout:
            message = MESSAGE_DECODER.decode(line)
            verdict = type(message).__name__ in ("Finished", "Failed")
            yield message
        if not verdict:
            raise WorkerDied
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
