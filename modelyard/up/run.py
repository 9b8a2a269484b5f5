"""`yard up`: starts the broker and the services, watches them, and stops everything on Ctrl-C."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import IO, NamedTuple

import msgspec

from modelyard.bus.connection import Bus, NatsError
from modelyard.bus.service import run_loop, stop_signal
from modelyard.bus.tasks import first_of
from modelyard.host import home, settings
from modelyard.host.broker import BrokerMissing
from modelyard.host.credentials import ensure_seeds
from modelyard.host.processes import EXIT_CONFIG, ProcessGroup, terminate
from modelyard.host.settings import Settings, SettingsError
from modelyard.up.child import Child, StartupError, claim_port, own_host, sentence_of, start_broker
from modelyard.up.inviter import announced
from modelyard.up.joiner import membership, nats_url, read_invitation
from modelyard.up.prefork import Prefork
from modelyard.up.terminal import EventPrinter, Terminal, print_banner
from schemas import subjects
from schemas.base import SERVICES, Record, Role
from schemas.errors import YardError
from schemas.instances import ClearNode

READY_TIMEOUT_S = 30.0
DRAIN_S = 2.0
STOP_S = 5.0
_POLL_S = 0.05
EXIT_UNREACHABLE = 3
_DISK_FULL_BYTES = 4 * 1024 * 1024


class _Pong(Record):
    """The reply of a NATS service to a ping."""

    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class UpOptions(NamedTuple):
    listen: str | None = None
    """The broker's address instead of the one in the settings."""
    join: bool = False
    url: str | None = None
    """The broker to join; None: the stored or discovered one."""
    gateway: bool = False
    """Run a gateway on a joining machine, too."""


def run_up(options: UpOptions) -> int:
    """Run everything in the foreground; returns the exit code. Errors are sentences on standard error."""
    try:
        configured = settings.load()
        if options.listen is not None:
            host = settings.address(options.listen, "--listen")
            configured = msgspec.structs.replace(configured, nats_host=host)
        for name in settings.unknown():
            sys.stderr.write(f"yard: there is no setting {name}; it is ignored.\n")
        with _locked_home(configured):
            if options.join:
                configured = _join(configured, options)
            return run_loop(Up(configured, Terminal(), _roles(options)).run())
    except YardError as error:
        sys.stderr.write(f"yard: {error.message}\n")
        return EXIT_UNREACHABLE
    except (SettingsError, home.AlreadyRunning, StartupError, BrokerMissing) as error:
        sys.stderr.write(f"yard: {error}\n")
        return EXIT_CONFIG
    except PermissionError as error:
        sys.stderr.write(f"yard: {error.filename} cannot be written: {error.strerror}.\n")
        return EXIT_CONFIG


def _locked_home(configured: Settings) -> IO[str]:
    try:
        home.prepare(configured)
        return home.lock(configured)
    except OSError as error:
        where = error.filename or configured.home
        raise StartupError(
            f"{where} cannot be written: {error.strerror}; set YARD_HOME to a folder that can."
        ) from error


def _join(configured: Settings, options: UpOptions) -> Settings:
    """The settings of a machine that works for another yard."""
    invitation = read_invitation(configured, gateway=options.gateway)
    member = run_loop(membership(configured, options.url, invitation, gateway=options.gateway))
    return msgspec.structs.replace(configured, nats_url=member.nats_url, joined=True)


def _roles(options: UpOptions) -> tuple[Role, ...]:
    """The services to run: a joining machine has no gateway unless requested."""
    return tuple(role for role in SERVICES if options.gateway or not options.join or role is not Role.GATEWAY)


class Up:
    def __init__(self, configured: Settings, terminal: Terminal, roles: Sequence[Role] = SERVICES) -> None:
        self._settings = configured
        self._terminal = terminal
        self._roles = roles
        self._broker: Child | None = None
        self._services: list[Child] = []
        self._prefork: Prefork | None = None
        self._started_at = time.monotonic()

    async def run(self) -> int:
        stop = stop_signal()
        try:
            url = await self._start_broker()
            running = self._write_run_file(url)
            bus = await Bus.connect(self._settings, Role.OPERATOR, url=url)
            await self._start_services(running)
            restarts = [asyncio.create_task(child.keep_running()) for child in self._children()]
            stopping = asyncio.create_task(stop.wait())
            try:
                if await self._wait_until_ready(bus, restarts, stopping):
                    async with announced(self._settings, self._terminal, broker=self._broker is not None):
                        await self._show(bus, running)
                        await first_of(stopping, *restarts)
                self._check(restarts)
            finally:
                stop.clear()
                await self._stop(bus, stop)
        finally:
            await self._stop_children()
            await self._stop_leftovers()
            home.run_file(self._settings).unlink(missing_ok=True)
        return 0

    def _children(self) -> list[Child]:
        return [child for child in (self._broker, *self._services) if child is not None]

    async def _start_broker(self) -> str:
        if self._settings.nats_url is not None:
            if not self._settings.joined:
                ensure_seeds(self._settings.credentials)
            return self._settings.nats_url
        host = self._settings.nats_host
        port = claim_port(host, self._settings.nats_port, "YARD_NATS_PORT")
        self._broker = await start_broker(self._settings, port)
        self._settings = msgspec.structs.replace(self._settings, nats_port=port)
        return nats_url(own_host(host), port)

    def _write_run_file(self, url: str) -> home.RunFile:
        """Choose the gateway's port, and publish all addresses to the other commands of this home."""
        gateway_url = self._gateway_url() if Role.GATEWAY in self._roles else None
        running = home.RunFile(pid=os.getpid(), nats_url=url, gateway_url=gateway_url)
        home.write_run_file(self._settings, running)
        return running

    def _gateway_url(self) -> str:
        port = claim_port(self._settings.host, self._settings.port, "YARD_PORT")
        self._settings = msgspec.structs.replace(self._settings, port=port)
        shown = self._settings.host if self._settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
        host = f"[{shown}]" if ":" in shown else shown
        return f"http://{host}:{port}"

    async def _start_services(self, running: home.RunFile) -> None:
        environment = {**os.environ, **self._settings.as_environment(), "YARD_NATS_URL": running.nats_url}
        self._prefork = Prefork(environment, self._settings.logs / "prefork.log")
        for role in self._roles:
            log = self._settings.logs / f"{role}.log"
            child = Child(str(role), log, partial(self._prefork.start, role, log))
            await child.start()
            self._services.append(child)

    def _disk_full(self) -> str:
        """A full disk is the usual reason, and the broker does not report it."""
        free_bytes = shutil.disk_usage(self._settings.home).free
        return f"The disk of {self._settings.home} is full. " if free_bytes < _DISK_FULL_BYTES else ""

    async def _wait_until_ready(
        self, bus: Bus, restarts: list[asyncio.Task[int]], stopping: asyncio.Task[bool]
    ) -> bool:
        """Wait until every service is discoverable; False if a stop was requested before."""
        ready = _all_discoverable(bus, self._roles)
        ended = await first_of(ready, stopping, *restarts, timeout_s=READY_TIMEOUT_S)
        self._check(restarts)
        if not any(ended):
            missing = [child for child in self._services if child.starts > 1] or self._services
            reasons = "; ".join(f"{child.name}: {sentence_of(child.last_line())}" for child in missing)
            raise StartupError(
                f"The services did not come up in {READY_TIMEOUT_S:g} s. {self._disk_full()}{reasons}"
            )
        return not stopping.done()

    def _check(self, restarts: list[asyncio.Task[int]]) -> None:
        """StartupError with the last line of a child that is not restarted any more."""
        for child, task in zip(self._children(), restarts, strict=True):
            if task.done():
                raise StartupError(child.last_line().removeprefix("yard: "))

    async def _show(self, bus: Bus, running: home.RunFile) -> None:
        print_banner(self._terminal, self._settings, running, time.monotonic() - self._started_at)
        await EventPrinter(self._terminal).follow(bus)

    async def _stop(self, bus: Bus, second_signal: asyncio.Event) -> None:
        """Drain for a moment; a second Ctrl-C ends that at once."""
        self._terminal.print_line("\n  Stopping …")
        await first_of(self._clear_node(bus), second_signal.wait())
        await bus.close()

    async def _clear_node(self, bus: Bus) -> None:
        with contextlib.suppress(YardError):
            order, node = ClearNode(drain_s=DRAIN_S), self._settings.node
            await bus.call(subjects.NODE_CLEAR, order, timeout_s=20, node=node)

    async def _stop_children(self) -> None:
        await asyncio.gather(*(child.stop(STOP_S) for child in self._services))
        if self._prefork is not None:
            await self._prefork.close()
        if self._broker is not None:
            await self._broker.stop(STOP_S)

    async def _stop_leftovers(self) -> None:
        """Kill runners that outlived their supervisor, and the processes of their engines."""
        for instance, runner in home.read_runners(self._settings).items():
            await terminate(runner.pid, runner.started_at, grace_s=1.0)
            if runner.engine_pid is not None and runner.engine_started_at is not None:
                with contextlib.suppress(TimeoutError):
                    group = ProcessGroup(runner.engine_pid, runner.engine_started_at, instance)
                    await asyncio.wait_for(group.kill(), STOP_S)
            home.forget_runner(self._settings, instance)


async def _all_discoverable(bus: Bus, roles: Sequence[Role]) -> None:
    """Announcing itself is the last step of a service's start."""
    for role in roles:
        while not await _is_discoverable(bus, role):
            await asyncio.sleep(_POLL_S)


async def _is_discoverable(bus: Bus, role: Role) -> bool:
    """Whether the service of this node replies; those of other nodes reply too."""
    inbox = bus.nc.new_inbox()
    replies = await bus.nc.subscribe(inbox)
    try:
        await bus.nc.publish(f"$SRV.PING.{role}", reply=inbox)
        async with asyncio.timeout(1):
            while True:
                pong = msgspec.json.decode((await replies.next_msg(timeout=1)).data, type=_Pong)
                if pong.metadata.get("node") == bus.node:
                    return True
    except (TimeoutError, NatsError, msgspec.DecodeError):
        return False
    finally:
        with contextlib.suppress(NatsError):
            await replies.unsubscribe()
