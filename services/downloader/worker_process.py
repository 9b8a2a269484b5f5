"""A download's process as the service sees it: started with a job, read message by message, ended at will."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from services.downloader.worker_messages import (
    MESSAGE_DECODER,
    Failed,
    Finished,
    Job,
    WorkerMessage,
    WorkerOrder,
)

_LINE_LIMIT_BYTES = 16 * 1024 * 1024


class WorkerDied(Exception):
    """It ended without a verdict: killed, most likely. What it fetched is on disk."""


class Worker:
    """A running worker."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def messages(self) -> AsyncIterator[WorkerMessage]:
        """Everything it says; WorkerDied if its last word is no verdict."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                message = MESSAGE_DECODER.decode(line)
            except msgspec.DecodeError as error:  # half a line: it was killed while it spoke
                raise WorkerDied from error
            yield message
            if isinstance(message, Finished | Failed):
                return
        raise WorkerDied

    async def tell(self, order: WorkerOrder | Job) -> None:
        """Send it a line; one that is gone is noticed by who reads its messages."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            await self._process.stdin.drain()


@contextlib.asynccontextmanager
async def running_worker(job: Job, log: Path) -> AsyncIterator[Worker]:
    """A worker at this job; leaving the block kills it."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.downloader.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=dict(os.environ),
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
    try:
        worker = Worker(process)
        await worker.tell(job)
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
