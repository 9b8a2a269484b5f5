"""From nothing to a proven engine: files checked, process started, port found, health and one real answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from modelyard.bus import logs
from modelyard.host.settings import Settings
from modelyard.host.threads import run_in_daemon_thread
from schemas.instances import InstanceState, Placement, Reason
from schemas.models import ModelSpec
from services.supervisor.engines import choose
from services.supervisor.engines.base import Engine, EngineProblem, ServerCommand
from services.supervisor.runner.causes import tells_no_memory
from services.supervisor.runner.engine_process import EngineProcess
from services.supervisor.runner.files import check_files, size_bytes
from services.supervisor.runner.life import Life
from services.supervisor.runner.ports import NoFreePort, accepts, free_port, is_taken
from services.supervisor.runner.upstream import Upstream

T = TypeVar("T")
log = logs.get(__name__)

PREPARE_S = 60.0
"""How long it may take to find out how an engine is started, where the model does not say."""
_HEALTH_POLL_S = 0.02
_HEALTH_ANSWER_S = 5.0
"""An engine may accept a connection and forget it while it loads; then it is asked again."""
_BUDGET_BYTES_PER_S = 50_000_000
"""Slower than any disk that a model should lie on."""


class StartFailed(Exception):
    """The engine did not get ready; the message says why."""

    def __init__(self, message: str, reason: Reason = Reason.UNHEALTHY) -> None:
        super().__init__(message)
        self.reason = Reason.OOM if tells_no_memory(message) else reason


class PortTaken(StartFailed):
    """Between our look and the engine's start somebody else took its port."""


class Halted(Exception):
    """Somebody asked to stop before it was ready."""


class Start:
    """One start of an engine. `stop` set meanwhile ends it with Halted."""

    def __init__(
        self, spec: ModelSpec, placement: Placement, settings: Settings, life: Life, stop: asyncio.Event
    ) -> None:
        self._spec = spec
        self._placement = placement
        self._settings = settings
        self._life = life
        self._stop = stop
        self._began = time.monotonic()
        self._budget_s = 0.0

    async def process(self, follow: Callable[[EngineProcess], None]) -> EngineProcess:
        """Check the files and start the process; `follow` begins to read its output."""
        try:
            engine, port, command = await self._prepared()
        except (StartFailed, Halted):
            raise
        except (EngineProblem, NoFreePort) as error:
            raise StartFailed(str(error)) from error
        except Exception as error:
            # A plugin's fault is told like any other.
            log.exception("engine_has_no_command", engine=self._spec.engine)
            raise StartFailed(f"The engine does not say how to start it: {error!r}") from error
        instance = self._life.instance.instance
        log_path = self._settings.logs / f"{instance}.log"
        process = EngineProcess(engine, log_path, instance, port, self._life.set_progress)
        try:
            await process.start(command)
        except OSError as error:
            raise StartFailed(f"{command.argv[0]} cannot be run: {error.strerror}.") from error
        follow(process)
        await self._life.step(
            InstanceState.LOADING, engine=engine.name, engine_pid=process.pid, progress=None
        )
        return process

    async def listening(self, process: EngineProcess) -> Upstream:
        """Wait until it listens, and says where if it chose."""
        port = await self._guard(process, asyncio.shield(process.port), "say where it listens")
        if process.given_port is not None:
            await self._guard(process, _accepting(port), f"listen on port {port}")
        await self._life.step(InstanceState.PROBING, port=port)
        return Upstream(port, process.engine.api(self._spec), self._spec.name)

    async def proven(self, process: EngineProcess, upstream: Upstream) -> float:
        """Wait until it is healthy and answered one real request; seconds since the start."""
        await self._guard(process, _healthy(upstream), "get ready")
        probe = upstream.probe(self._spec.mode)
        if (wrong := await self._guard(process, probe, "answer its first request")) is not None:
            raise StartFailed(f"The engine started, but its first request failed: {wrong}")
        return round(time.monotonic() - self._began, 3)

    async def _prepared(self) -> tuple[Engine, int | None, ServerCommand]:
        """As `_command`, run_in_daemon_thread: an engine that a stranger wrote may take its time, or hang."""
        timeout_s = self._spec.start_budget_s or PREPARE_S
        preparing = asyncio.wrap_future(run_in_daemon_thread(self._command))
        stop = asyncio.create_task(self._stop.wait())
        waits: list[asyncio.Future[Any]] = [preparing, stop]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if preparing.done():
            return preparing.result()
        if self._stop.is_set():
            raise Halted
        raise StartFailed(
            f"The engine {self._spec.engine} did not say within {timeout_s:.0f} s how to start it."
        )

    def _command(self) -> tuple[Engine, int | None, ServerCommand]:
        """The engine, the port that it gets if it cannot choose one, and how it is started."""
        spec, settings = self._spec, self._settings
        engine = choose(spec, settings, timeout_s=PREPARE_S)
        files = check_files(spec, settings.store_of(spec.path), engine)
        self._budget_s = budget_s(spec, engine.start_s, size_bytes(files.model))
        port = None if engine.tells_port else free_port()
        return engine, port, engine.command(spec, files, self._placement, port or 0, settings)

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
                taken = process.given_port is not None and is_taken(process.given_port)
                raise (PortTaken if taken else StartFailed)(process.epitaph(), process.cause())
            raise StartFailed(f"The engine did not {what} within {self._budget_s:.0f} s.")
        finally:
            for waiting in (task, *alarms):
                waiting.cancel()


def budget_s(spec: ModelSpec, start_s: float, size_bytes: int) -> float:
    """How long loading may take: as the model says, else what its engine and a slow disk need."""
    return spec.start_budget_s or start_s + size_bytes / _BUDGET_BYTES_PER_S


async def _accepting(port: int) -> None:
    while not await accepts(port):
        await asyncio.sleep(_HEALTH_POLL_S)


async def _healthy(upstream: Upstream) -> None:
    while not await upstream.is_healthy(_HEALTH_ANSWER_S):
        await asyncio.sleep(_HEALTH_POLL_S)
