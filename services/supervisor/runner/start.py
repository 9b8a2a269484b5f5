"""The start of an engine: files checked, process started, port known, health and one real answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from modelyard.bus import logs
from modelyard.bus.tasks import first_of
from modelyard.host.settings import Settings
from modelyard.host.threads import run_in_daemon_thread
from modelyard.plugins import Engine, EngineProblem, ServerCommand
from schemas.instances import InstanceState, Placement, Reason
from schemas.models import ModelSpec
from services.supervisor.engines.selection import check_files, choose_engine, size_bytes
from services.supervisor.runner.engine_process import (
    EngineProcess,
    NoFreePort,
    accepts,
    free_port,
    is_out_of_memory,
    is_taken,
)
from services.supervisor.runner.record import InstanceRecord
from services.supervisor.runner.upstream import Upstream

T = TypeVar("T")
log = logs.get(__name__)

PREPARE_S = 60.0
"""How long an engine may take for its start command, unless the model has a start budget."""
_POLL_S = 0.02
_HEALTH_TIMEOUT_S = 5.0
"""A loading engine may accept a connection and never answer; the request is repeated."""
_MIN_LOAD_BYTES_PER_S = 50_000_000
"""Slower than any disk for models."""


class EngineStartFailed(Exception):
    """The engine did not become ready; the message is the reason."""

    def __init__(self, message: str, reason: Reason = Reason.UNHEALTHY) -> None:
        super().__init__(message)
        self.reason = Reason.OOM if is_out_of_memory(message) else reason


class PortTaken(EngineStartFailed):
    """Another program took the assigned port before the engine did."""


class StartCancelled(Exception):
    """A stop was requested before the engine was ready."""


@dataclass
class EngineStart:
    """One start of an engine; setting `_stop` ends it with StartCancelled."""

    _spec: ModelSpec
    _placement: Placement
    _settings: Settings
    _record: InstanceRecord
    _stop: asyncio.Event
    _started_at: float = field(default_factory=time.monotonic)
    _budget_s: float = 0.0

    async def start_process(self, on_started: Callable[[EngineProcess], None]) -> EngineProcess:
        """Check the files and start the process; `on_started` begins to read its output."""
        try:
            engine, port, command = await self._prepare()
        except (EngineStartFailed, StartCancelled):
            raise
        except (EngineProblem, NoFreePort) as error:
            raise EngineStartFailed(str(error)) from error
        except Exception as error:
            # A fault of a plugin is a failed start like any other.
            log.exception("engine_command_failed", engine=self._spec.engine)
            raise EngineStartFailed(f"The engine has no command to start it: {error!r}") from error
        instance = self._record.instance.instance
        log_path = self._settings.logs / f"{instance}.log"
        process = EngineProcess(engine, log_path, instance, port, self._record.set_progress)
        try:
            await process.start(command)
        except OSError as error:
            raise EngineStartFailed(f"{command.argv[0]} cannot be run: {error.strerror}.") from error
        on_started(process)
        await self._record.transition(
            InstanceState.LOADING, engine=engine.name, engine_pid=process.pid, progress=None
        )
        return process

    async def wait_until_listening(self, process: EngineProcess) -> Upstream:
        """Wait until it listens on its port, which it may report itself."""
        port = await self._guard(process, asyncio.shield(process.port), "report its port")
        if process.assigned_port is not None:
            await self._guard(process, _poll(lambda: accepts(port)), f"listen on port {port}")
        await self._record.transition(InstanceState.PROBING, port=port)
        return Upstream(port, process.engine.api(self._spec), self._spec.name, process.leader_exited)

    async def wait_until_ready(self, process: EngineProcess, upstream: Upstream) -> float:
        """Wait until it is healthy and has answered one real request; seconds since the start."""
        await self._guard(process, _poll(lambda: upstream.is_healthy(_HEALTH_TIMEOUT_S)), "get ready")
        probe = upstream.probe(self._spec.mode)
        if (problem := await self._guard(process, probe, "answer its first request")) is not None:
            raise EngineStartFailed(f"The engine started, but its first request failed: {problem}")
        return round(time.monotonic() - self._started_at, 3)

    async def _prepare(self) -> tuple[Engine, int | None, ServerCommand]:
        """`_command` in a thread: an engine of a plugin may block."""
        timeout_s = self._spec.start_budget_s or PREPARE_S
        preparing = asyncio.wrap_future(run_in_daemon_thread(self._command))
        await first_of(preparing, self._stop.wait(), timeout_s=timeout_s)
        if preparing.done():
            return preparing.result()
        if self._stop.is_set():
            raise StartCancelled
        raise EngineStartFailed(
            f"The engine {self._spec.engine} gave no command to start it within {timeout_s:.0f} s."
        )

    def _command(self) -> tuple[Engine, int | None, ServerCommand]:
        spec, settings = self._spec, self._settings
        engine = choose_engine(spec, settings, timeout_s=PREPARE_S)
        files = check_files(spec, settings.store_of(spec.path), engine)
        self._budget_s = start_budget_s(spec, engine.start_timeout_s, size_bytes(files.model))
        port = None if engine.reports_port else free_port()
        return engine, port, engine.command(spec, files, self._placement, port or 0, settings)

    async def _guard(self, process: EngineProcess, work: Awaitable[T], goal: str) -> T:
        """The result of `work`, unless the engine exits, the budget runs out or a stop is requested."""
        task = asyncio.ensure_future(work)
        remaining_s = self._started_at + self._budget_s - time.monotonic()
        try:
            await first_of(task, process.exited.wait(), self._stop.wait(), timeout_s=remaining_s)
            if task.done():
                return task.result()
            if self._stop.is_set():
                raise StartCancelled
            if process.exited.is_set():
                port = process.assigned_port
                taken = port is not None and (is_taken(port) or process.reports_taken_port())
                raise (PortTaken if taken else EngineStartFailed)(
                    process.exit_summary(), process.exit_reason()
                )
            raise EngineStartFailed(f"The engine did not {goal} within {self._budget_s:.0f} s.")
        finally:
            task.cancel()


def start_budget_s(spec: ModelSpec, start_timeout_s: float, size_bytes: int) -> float:
    """How long a start may take: the model's own budget, or the engine's timeout and a slow disk's."""
    return spec.start_budget_s or start_timeout_s + size_bytes / _MIN_LOAD_BYTES_PER_S


async def _poll(check: Callable[[], Awaitable[bool]]) -> None:
    while not await check():
        await asyncio.sleep(_POLL_S)
