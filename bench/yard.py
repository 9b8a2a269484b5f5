"""A real `yard up` in a home of its own, with any engine, to be measured."""

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
from bench.route import ProcessUsage, Route, usage_of

_URL = re.compile(r"OpenAI base URL\s+http://127\.0\.0\.1:(\d+)/v1")


class MeasuredYard:
    """The route through the yard, and the direct one to its engine."""

    def __init__(self, home: Path, port: int) -> None:
        self._home = home
        self.through = Route(Target("modelyard", port, "demo"), self._usage)
        self.direct = Route(Target("engine", 0, "demo"), self._usage)

    @property
    def models(self) -> Path:
        """The folder of the demo model."""
        return self._home / "models" / "modelyard"

    async def warm_up(self, slots: int) -> None:
        """Start the demo model with `slots` slots and find the port of its engine."""
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
        self.direct = Route(Target("engine", instance["port"], "demo"), self._usage)

    def process(self, module: str) -> psutil.Process:
        """The process of a module, such as `services.monitor`."""
        ours = (process for process in psutil.process_iter() if self._is_ours(process))
        # A forked service has its title in one argument.
        return next(process for process in ours if module in " ".join(process.cmdline()).split())

    def _usage(self) -> ProcessUsage:
        """Of every process of the yard except its engine."""
        return usage_of(process for process in psutil.process_iter() if self._is_ours(process))

    def _is_ours(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return bool(process.environ().get("YARD_HOME") == str(self._home))
        return False


@contextlib.asynccontextmanager
async def measured_yard(slots: int, **environment: str) -> AsyncIterator[MeasuredYard]:
    """`yard up` with its demo model loaded; interrupted at the end."""
    async with started_yard(**environment) as yard:
        await yard.warm_up(slots)
        yield yard


@contextlib.asynccontextmanager
async def started_yard(**environment: str) -> AsyncIterator[MeasuredYard]:
    """`yard up`; interrupted at the end."""
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
