"""From nothing to a proven engine: files checked, process started, port found, health and one real answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from modelyard.gguf.check import HEAD_BYTES, check_gguf
from modelyard.paths import resolve_inside
from modelyard.settings import Settings
from schemas.instances import InstanceState
from schemas.models import ModelSpec
from services.supervisor.engines import choose
from services.supervisor.engines.base import Engine, EngineProblem, Files
from services.supervisor.runner.engine_process import EngineProcess
from services.supervisor.runner.life import Life
from services.supervisor.runner.upstream import Upstream

T = TypeVar("T")

_HEALTH_POLL_S = 0.02
_BASE_BUDGET_S = 60.0
_BUDGET_BYTES_PER_S = 50_000_000
"""Slower than any disk that a model should lie on."""


class StartFailed(Exception):
    """The engine did not get ready; the message says why."""


class Halted(Exception):
    """Somebody asked to stop before it was ready."""


class Start:
    """One start of an engine. `stop` set meanwhile ends it with Halted."""

    def __init__(self, spec: ModelSpec, settings: Settings, life: Life, stop: asyncio.Event) -> None:
        self._spec = spec
        self._settings = settings
        self._life = life
        self._stop = stop
        self._began = time.monotonic()
        self._budget_s = 0.0

    async def process(self, follow: Callable[[EngineProcess], None]) -> EngineProcess:
        """Check the files and start the process; `follow` begins to read its output."""
        engine, files = self._engine(), check_files(self._spec, self._settings.models)
        self._budget_s = budget_s(self._spec, files.model.stat().st_size)
        command = engine.command(self._spec, files, self._settings)
        process = EngineProcess(engine, self._settings.logs / f"{self._life.instance.instance}.log")
        try:
            await process.start(command)
        except OSError as error:
            raise StartFailed(f"{command.argv[0]} cannot be run: {error.strerror}.") from error
        follow(process)
        await self._life.step(InstanceState.LOADING, engine=engine.name, engine_pid=process.pid)
        return process

    async def listening(self, process: EngineProcess) -> Upstream:
        """Wait until it says where it listens."""
        port = await self._guard(process, asyncio.shield(process.port), "say where it listens")
        await self._life.step(InstanceState.PROBING, port=port)
        return Upstream(port)

    async def proven(self, process: EngineProcess, upstream: Upstream) -> float:
        """Wait until it is healthy and answered one real request; seconds since the start."""
        await self._guard(process, _healthy(upstream), "get ready")
        probe = upstream.probe(self._spec.mode)
        if (wrong := await self._guard(process, probe, "answer its first request")) is not None:
            raise StartFailed(f"The engine started, but its first request failed: {wrong}")
        return round(time.monotonic() - self._began, 3)

    def _engine(self) -> Engine:
        try:
            return choose(self._spec, self._settings)
        except EngineProblem as error:
            raise StartFailed(str(error)) from error

    async def _guard(self, process: EngineProcess, work: Awaitable[T], what: str) -> T:
        """The result of `work`, unless the engine ends, the budget is used up or somebody asks to stop."""
        task = asyncio.ensure_future(work)
        alarms = [asyncio.create_task(event.wait()) for event in (process.exited, self._stop)]
        left_s = self._began + self._budget_s - time.monotonic()
        try:
            await asyncio.wait({task, *alarms}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._stop.is_set():
                raise Halted
            if process.exited.is_set():
                raise StartFailed(process.epitaph())
            raise StartFailed(f"The engine did not {what} within {self._budget_s:.0f} s.")
        finally:
            for waiting in (task, *alarms):
                waiting.cancel()


def budget_s(spec: ModelSpec, size_bytes: int) -> float:
    """How long loading may take: as the model says, else a minute and what a slow disk needs."""
    return spec.start_budget_s or _BASE_BUDGET_S + size_bytes / _BUDGET_BYTES_PER_S


def check_files(spec: ModelSpec, store: Path) -> Files:
    """The model's files, if they are there, inside the store, and look like a model; else StartFailed."""
    try:
        files = Files(
            model=resolve_inside(store, spec.path),
            mmproj=resolve_inside(store, spec.mmproj) if spec.mmproj else None,
        )
        with files.model.open("rb") as file:
            check_gguf(file.read(HEAD_BYTES), files.model.stat().st_size)
    except FileNotFoundError:
        raise StartFailed(f"The file {spec.path} of model {spec.name} is not in the store.") from None
    except OSError as error:
        raise StartFailed(f"The file {spec.path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise StartFailed(f"{spec.path}: {error}") from error
    return files


async def _healthy(upstream: Upstream) -> None:
    while not await upstream.is_healthy():
        await asyncio.sleep(_HEALTH_POLL_S)
