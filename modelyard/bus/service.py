"""The life of a service process: settings, logging, login, work until told to stop, a clean end."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.ensure import ensure_all
from modelyard.bus.log_publisher import LogPublisher
from modelyard.bus.tasks import Tasks
from modelyard.host.home import AlreadyRunning, broker_url, lock
from modelyard.host.processes import die_with_parent
from modelyard.host.settings import Settings, SettingsError, load
from modelyard.up.child import EXIT_CONFIG
from schemas.base import SERVICES, Role
from schemas.errors import YardError

log = logs.get(__name__)
T = TypeVar("T")

_ALONE = (Role.SUPERVISOR, Role.MONITOR, Role.DOWNLOADER)
_LEAVING_S = 10.0
_TRY_S = 0.1

ServiceMain = Callable[[Bus, Settings, Tasks], Awaitable[None]]
"""Sets the service up and returns; its tasks run until the process is told to stop."""


def run_service(role: Role, main: ServiceMain) -> None:
    """Run `main` as this process until SIGTERM or SIGINT; end with 1 and one sentence if it cannot start."""
    die_with_parent(signal.SIGTERM)
    try:
        settings = load()
        wire = LogPublisher()
        logs.configure(settings.log_level, wire)
        with _alone(role, settings):
            sys.exit(run_loop(_serve(role, main, settings, wire)))
    except (SettingsError, AlreadyRunning) as error:
        sys.stderr.write(f"yard: {error}\n")
        sys.exit(EXIT_CONFIG)


def _alone(role: Role, settings: Settings) -> AbstractContextManager[object]:
    """One of each kind a home: two supervisors of one node would each count its memory for themselves.

    One whose `yard up` was killed may still be on its way out.
    """
    if role not in _ALONE:
        return nullcontext()
    settings.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    until, told = time.monotonic() + _LEAVING_S, False
    while True:
        try:
            return lock(settings, f"{role}.lock")
        except AlreadyRunning as error:
            if time.monotonic() > until:
                raise
            if not told:
                log.info("home_is_held", service=role, by=str(error))
            told = True
        time.sleep(_TRY_S)


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


async def _serve(role: Role, main: ServiceMain, settings: Settings, wire: LogPublisher) -> int:
    stop = stop_signal()
    try:
        bus = await Bus.connect(settings, role, url=broker_url(settings))
        if role in SERVICES:
            await ensure_all(bus)
        async with Tasks() as tasks:
            tasks.spawn(wire.run(bus, role), "log")
            await main(bus, settings, tasks)
            log.info("service_ready", service=role)
            closed = asyncio.ensure_future(bus.closed.wait())
            await asyncio.wait(
                {closed, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED
            )
    except YardError as error:
        log.error("service_failed", service=role, error=error.message)  # noqa: TRY400 - a sentence, no traceback
        return 1
    if bus.closed.is_set():
        log.error("connection_closed", service=role)
        return 1
    log.info("service_stopped", service=role)
    await wire.send(bus, role)
    await bus.close()
    return 0


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
