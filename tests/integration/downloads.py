"""Shared by the download tests: a model of random bytes, and a transfer worker process."""

import asyncio
import contextlib
import json
import os
import random
import signal
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from services.downloader.worker.messages import MESSAGE_DECODER, Failed, Resolved, WorkerMessage

REPO_ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "services.downloader.worker"]
MIB = 1024 * 1024


def model_bytes(size_bytes: int, seed: int = 1) -> bytes:
    """A GGUF header with one key, and noise up to the size."""
    head = struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 20) + b"general.architecture"
    return head + random.Random(seed).randbytes(size_bytes - len(head))


def worker_environment(endpoint: str, home: Path, token: str | None = None) -> dict[str, str]:
    """Our environment with the settings of the test hub only."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(REPO_ROOT)}
    return environment | ({"HF_TOKEN": token} if token else {})


def job_of(store: Path, job: Mapping[str, object]) -> dict[str, object]:
    """A job that downloads into the folder `model` of the store."""
    return {
        "type": "download",
        "folder": str(store / "model"),
        "store_root": str(store),
        "margin_bytes": 0,
        **job,
    }


class Worker:
    """`async with Worker(...)`: the process runs until the block ends at the latest."""

    def __init__(
        self, endpoint: str, store: Path, *, job: Mapping[str, object], token: str | None = None
    ) -> None:
        self._environment = worker_environment(endpoint, store.parent / "hf", token)
        self._job = job_of(store, job)
        self._messages: list[WorkerMessage] = []
        self.output = b""

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *WORKER, stdin=pipe, stdout=pipe, stderr=pipe, cwd=REPO_ROOT, env=self._environment
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self._job).encode() + b"\n")
        await self.process.stdin.drain()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            await self.end_with(signal.SIGKILL)

    async def go(self, **go: object) -> None:
        """Read messages until the download is resolved, then send Go."""
        while not isinstance(await self._next(), Resolved | Failed | None):
            pass
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(json.dumps({"type": "go", **go}).encode() + b"\n")
            await self.process.stdin.drain()

    async def _next(self) -> WorkerMessage | None:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        self.output += line
        if not line:
            return None
        self._messages.append(MESSAGE_DECODER.decode(line))
        return self._messages[-1]

    async def end_with(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        async with asyncio.timeout(10):
            await self.process.communicate()

    async def finish(self) -> list[WorkerMessage]:
        """All messages until the process ends."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            if not self._messages:
                await self.go()
            while await self._next() is not None:
                pass
            self.output += await self.process.stderr.read()
            await self.process.wait()
        return self._messages
