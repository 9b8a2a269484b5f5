"""Other servers in front of the same engine, measured in the same run where they are installed."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import psutil

from bench.client import Target
from bench.route import ProcessUsage, Route, usage_of

_START_S = 90.0


@contextlib.asynccontextmanager
async def litellm(engine_port: int) -> AsyncIterator[list[Route]]:
    """LiteLLM's proxy from YARD_BENCH_LITELLM or PATH; no route if it is not installed."""
    program = os.environ.get("YARD_BENCH_LITELLM") or shutil.which("litellm")
    if program is None:
        yield []
        return
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            "model_list:\n- model_name: demo\n  litellm_params:\n    model: openai/demo\n"
            f"    api_base: http://127.0.0.1:{engine_port}/v1\n    api_key: none\n"
            "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"
        )
        argv = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        async with _serving(argv, f"http://127.0.0.1:{port}/health/liveliness") as pid:
            yield [Route(Target("LiteLLM", port, "demo"), lambda: _tree(pid))]


@contextlib.asynccontextmanager
async def llama_router(models: Path) -> AsyncIterator[list[Route]]:
    """llama-server's router over the models of a folder; no route without a llama-server."""
    program = os.environ.get("YARD_LLAMA_SERVER") or shutil.which("llama-server")
    if program is None:
        yield []
        return
    port = _free_port()
    argv = [program, "--models-dir", str(models), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--parallel", "4", "--ctx-size", "2048"]
    async with _serving(argv, f"http://127.0.0.1:{port}/health") as pid:
        yield [Route(Target("llama.cpp router", port, "demo"), lambda: _tree(pid))]


@contextlib.asynccontextmanager
async def _serving(argv: Sequence[str], health: str) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_START_S), aiohttp.ClientSession() as session:
            while not await _is_healthy(session, health):
                await asyncio.sleep(0.1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        await process.wait()


async def _is_healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def _tree(pid: int) -> ProcessUsage:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        return usage_of([root, *root.children(recursive=True)])
    return ProcessUsage(0.0, 0.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
