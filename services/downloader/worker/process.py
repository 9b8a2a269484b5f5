"""The parent's side of a transfer worker: start it, read its messages, send it orders, kill it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from services.downloader.worker.messages import (
    MESSAGE_DECODER,
    FinalMessage,
    Job,
    WorkerMessage,
    WorkerOrder,
)

_LINE_LIMIT_BYTES = 16 * 1024 * 1024


class TransferWorkerDied(Exception):
    """The worker ended without a final message, most likely killed. What it has fetched is on the disk."""


class TransferWorker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def messages(self) -> AsyncIterator[WorkerMessage]:
        """All messages up to the final one; TransferWorkerDied if there is none."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                message = MESSAGE_DECODER.decode(line)
            except msgspec.DecodeError as error:  # an incomplete line: it was killed during a write
                raise TransferWorkerDied from error
            yield message
            if isinstance(message, FinalMessage):
                return
        raise TransferWorkerDied

    async def send(self, order: WorkerOrder | Job) -> None:
        """Send a line; a dead worker is detected by `messages`."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            await self._process.stdin.drain()


@contextlib.asynccontextmanager
async def transfer_worker(job: Job, log_path: Path) -> AsyncIterator[TransferWorker]:
    """A worker for this job, whose stderr is appended to log_path; killed at the end of the block."""
    with log_path.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.downloader.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=dict(os.environ),
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
    try:
        worker = TransferWorker(process)
        await worker.send(job)
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
