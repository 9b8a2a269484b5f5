"""The lifecycle of a service process: settings, logging, login, work until SIGTERM, a clean exit."""

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
from modelyard.bus.tasks import Tasks, first_of
from modelyard.host.home import AlreadyRunning, broker_url, lock
from modelyard.host.processes import EXIT_CONFIG, die_with_parent
from modelyard.host.settings import Settings, SettingsError, load
from schemas.base import SERVICES, Role
from schemas.errors import YardError

log = logs.get(__name__)
T = TypeVar("T")

_SINGLETONS = (Role.SUPERVISOR, Role.MONITOR, Role.DOWNLOADER)
_PREDECESSOR_EXIT_S = 10.0
_LOCK_RETRY_S = 0.1

ServiceMain = Callable[[Bus, Settings, Tasks], Awaitable[None]]
"""Sets the service up and returns; its tasks run until the process is asked to stop."""


def run_service(role: Role, main: ServiceMain) -> None:
    """Run `main` as this process until SIGTERM or SIGINT; end with 1 and one sentence if it cannot start."""
    die_with_parent(signal.SIGTERM)
    try:
        settings = load()
        publisher = LogPublisher()
        logs.configure(settings.log_level, publisher)
        with _singleton_lock(role, settings):
            sys.exit(run_loop(_serve(role, main, settings, publisher)))
    except (SettingsError, AlreadyRunning) as error:
        sys.stderr.write(f"yard: {error}\n")
        sys.exit(EXIT_CONFIG)


def _singleton_lock(role: Role, settings: Settings) -> AbstractContextManager[object]:
    """One process of each kind per home: two supervisors of a node would both allocate all of its memory.

    The predecessor, whose `yard up` was killed, may still be exiting.
    """
    if role not in _SINGLETONS:
        return nullcontext()
    settings.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline, logged = time.monotonic() + _PREDECESSOR_EXIT_S, False
    while True:
        try:
            return lock(settings, f"{role}.lock")
        except AlreadyRunning as error:
            if time.monotonic() > deadline:
                raise
            if not logged:
                log.info("home_locked", service=role, by=str(error))
            logged = True
        time.sleep(_LOCK_RETRY_S)


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


async def _serve(role: Role, main: ServiceMain, settings: Settings, publisher: LogPublisher) -> int:
    stop = stop_signal()
    try:
        bus = await Bus.connect(settings, role, url=broker_url(settings))
        async with Tasks() as tasks:
            tasks.spawn(publisher.run(bus, role), "log")
            # Without a broker the setup waits for ever, and a stop must end it.
            ready, _, _ = await first_of(
                _set_up(role, main, bus, settings, tasks), bus.closed.wait(), stop.wait()
            )
            if ready:
                log.info("service_ready", service=role)
                await first_of(bus.closed.wait(), stop.wait())
    except YardError as error:
        log.error("service_failed", service=role, error=error.message)  # noqa: TRY400 - a sentence, no traceback
        return 1
    if bus.closed.is_set():
        log.error("connection_closed", service=role)
        return 1
    log.info("service_stopped", service=role)
    await publisher.send(bus, role)
    await bus.close()
    return 0


async def _set_up(role: Role, main: ServiceMain, bus: Bus, settings: Settings, tasks: Tasks) -> None:
    if role in SERVICES:
        await ensure_all(bus)
    await main(bus, settings, tasks)


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
