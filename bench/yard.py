"""A yard to be measured: a real `yard up` in a home of its own, with any engine."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil

from bench.client import Target
from bench.way import Usage, Way, usage_of

_URL = re.compile(r"OpenAI base URL\s+http://127\.0\.0\.1:(\d+)/v1")


class MeasuredYard:
    """The yard's own way to its model, and the direct one."""

    def __init__(self, home: Path, port: int) -> None:
        self._home = home
        self.through = Way(Target("modelyard", port, "demo"), self._usage)
        self.direct = Way(Target("engine", 0, "demo"), self._usage)

    @property
    def models(self) -> Path:
        """The folder of the demo model."""
        return self._home / "models" / "modelyard"

    async def warm_up(self, slots: int) -> None:
        """Have the demo model started with so many slots, and find where its engine listens."""
        base = f"http://127.0.0.1:{self.through.target.port}"
        spec = {"name": "demo", "path": "modelyard/demo.gguf", "n_parallel": slots, "n_ctx": 512 * slots}
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{base}/api/command/model/put", json=spec) as response:
                response.raise_for_status()
            async with session.post(f"{base}/v1/chat/completions", json=body) as response:
                response.raise_for_status()
            async with session.get(f"{base}/api/state/instances") as response:
                (instance,) = (await response.json()).values()
        self.direct = Way(Target("engine", instance["port"], "demo"), self._usage)

    def process(self, module: str) -> psutil.Process:
        """The one that runs a module, such as `services.monitor`."""
        return next(one for one in psutil.process_iter() if self._is_ours(one) and module in one.cmdline())

    def _usage(self) -> Usage:
        """Of every process of the yard but its engine."""
        return usage_of(process for process in psutil.process_iter() if self._is_ours(process))

    def _is_ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return bool(process.environ().get("YARD_HOME") == str(self._home))
        return False


@contextlib.asynccontextmanager
async def measured_yard(slots: int, **environment: str) -> AsyncIterator[MeasuredYard]:
    """`yard up`, with its demo model loaded; ended with Ctrl-C."""
    async with started_yard(**environment) as yard:
        await yard.warm_up(slots)
        yield yard


@contextlib.asynccontextmanager
async def started_yard(**environment: str) -> AsyncIterator[MeasuredYard]:
    """`yard up`; ended with Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="yard-bench-") as home:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modelyard.cli", "up"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "YARD_HOME": home, "YARD_PORT": "0", "YARD_NATS_PORT": "0", **environment},
        )
        try:
            yield MeasuredYard(Path(home), await _port(process))
        finally:
            process.send_signal(signal.SIGINT)
            await process.communicate()


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        async for line in process.stdout:
            if match := _URL.search(line.decode()):
                return int(match[1])
    raise RuntimeError("the yard did not come up")
