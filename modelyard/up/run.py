"""`yard up`, from the first check to the last process gone."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

import msgspec

from modelyard.bus.connection import Bus, NatsError
from modelyard.bus.service import run_loop, stop_signal
from modelyard.host import home, settings
from modelyard.host.broker import BrokerMissing
from modelyard.host.credentials import ensure_seeds
from modelyard.host.settings import Settings, SettingsError
from modelyard.up import banner
from modelyard.up.announcing import announcing
from modelyard.up.broker import own_host, start_broker
from modelyard.up.child import EXIT_CONFIG, CannotStart, Child, sentence_of
from modelyard.up.joining import ask, membership, nats_url
from modelyard.up.news import News
from modelyard.up.ports import claim
from modelyard.up.terminal import Terminal
from schemas import subjects
from schemas.base import SERVICES, Record, Role
from schemas.errors import YardError
from schemas.instances import ClearNode

READY_TIMEOUT_S = 30.0
DRAIN_S = 2.0
STOP_S = 5.0
_POLL_S = 0.05
EXIT_UNREACHABLE = 3
_FULL_BYTES = 4 * 1024 * 1024


class _Pong(Record):
    """A service that answers; NATS' own shape."""

    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class Asked(NamedTuple):
    """What the command line says."""

    listen: str | None = None
    """Where the broker listens, if not as the settings say."""
    join: bool = False
    url: str | None = None
    """The broker to join; None: the one that is found, or was joined before."""
    gateway: bool = False
    """Run a gateway on a machine that joins, too."""


def run_up(asked: Asked) -> int:
    """Run everything in the foreground; the exit code. Sentences for what is wrong go to standard error."""
    try:
        configured = settings.load()
        if asked.listen is not None:
            configured = msgspec.structs.replace(
                configured, nats_host=settings.address(asked.listen, "--listen")
            )
        for name in settings.unknown():
            sys.stderr.write(f"yard: there is no setting {name}; it is ignored.\n")
        with _held(configured):
            if asked.join:
                configured = _joined(configured, asked)
            return run_loop(Up(configured, Terminal(), _roles(asked)).run())
    except YardError as error:
        sys.stderr.write(f"yard: {error.message}\n")
        return EXIT_UNREACHABLE
    except (SettingsError, home.AlreadyRunning, CannotStart, BrokerMissing) as error:
        sys.stderr.write(f"yard: {error}\n")
        return EXIT_CONFIG
    except PermissionError as error:
        sys.stderr.write(f"yard: {error.filename} cannot be written: {error.strerror}.\n")
        return EXIT_CONFIG


def _held(configured: Settings) -> IO[str]:
    """The home, made and locked; CannotStart if it cannot be written."""
    try:
        home.prepare(configured)
        return home.lock(configured)
    except OSError as error:
        where = error.filename or configured.home
        raise CannotStart(
            f"{where} cannot be written: {error.strerror}; set YARD_HOME to a folder that can."
        ) from error


def _joined(configured: Settings, asked: Asked) -> Settings:
    """The settings of a machine that works for another's yard."""
    invitation = ask(configured, gateway=asked.gateway)
    member = run_loop(membership(configured, asked.url, invitation, gateway=asked.gateway))
    return msgspec.structs.replace(configured, nats_url=member.nats_url, joined=True)


def _roles(asked: Asked) -> tuple[Role, ...]:
    """The services to run: a machine that joins needs no HTTP edge of its own."""
    return tuple(role for role in SERVICES if asked.gateway or not asked.join or role is not Role.GATEWAY)


class Up:
    """The broker, the services, and the terminal."""

    def __init__(self, configured: Settings, terminal: Terminal, roles: Sequence[Role] = SERVICES) -> None:
        self._settings = configured
        self._terminal = terminal
        self._roles = roles
        self._broker: Child | None = None
        self._services: list[Child] = []
        self._began = time.monotonic()

    async def run(self) -> int:
        stop = stop_signal()
        try:
            url = await self._start_broker()
            running = self._start_file(url)
            bus = await Bus.connect(self._settings, Role.OPERATOR, url=url)
            await self._start_services(running)
            watch = [asyncio.create_task(child.keep_running()) for child in self._children()]
            stopping = asyncio.create_task(stop.wait())
            try:
                if await self._until_ready(bus, watch, stopping):
                    async with announcing(self._settings, self._terminal, broker=self._broker is not None):
                        await self._show(bus, running)
                        await asyncio.wait({stopping, *watch}, return_when=asyncio.FIRST_COMPLETED)
                self._check(watch)
            finally:
                stop.clear()
                await self._stop(bus, stop)
        finally:
            await self._end_children()
            await self._end_leftovers()
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
        port = claim(host, self._settings.nats_port, "YARD_NATS_PORT")
        self._broker = await start_broker(self._settings, port)
        self._settings = msgspec.structs.replace(self._settings, nats_port=port)
        return nats_url(own_host(host), port)

    def _start_file(self, url: str) -> home.RunFile:
        """Settle the gateway's port, and tell the other commands of this home where everything is."""
        gateway_url = self._gateway_url() if Role.GATEWAY in self._roles else None
        running = home.RunFile(pid=os.getpid(), nats_url=url, gateway_url=gateway_url)
        home.write_run_file(self._settings, running)
        return running

    def _gateway_url(self) -> str:
        port = claim(self._settings.host, self._settings.port, "YARD_PORT")
        self._settings = msgspec.structs.replace(self._settings, port=port)
        shown = self._settings.host if self._settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
        host = f"[{shown}]" if ":" in shown else shown
        return f"http://{host}:{port}"

    async def _start_services(self, running: home.RunFile) -> None:
        environment = {**os.environ, **self._settings.as_environment(), "YARD_NATS_URL": running.nats_url}
        for role in self._roles:
            argv = [sys.executable, "-m", f"services.{role}"]
            child = Child(str(role), argv, environment, self._settings.logs / f"{role}.log")
            await child.start()
            self._services.append(child)

    def _full(self) -> str:
        """The usual reason, which the broker does not tell them."""
        free_bytes = shutil.disk_usage(self._settings.home).free
        return f"The disk of {self._settings.home} is full. " if free_bytes < _FULL_BYTES else ""

    async def _until_ready(
        self, bus: Bus, watch: list[asyncio.Task[int]], stopping: asyncio.Task[bool]
    ) -> bool:
        """Wait until every service answers; False if we are to stop before."""
        ready = asyncio.create_task(_all_answer(bus, self._roles))
        done, _ = await asyncio.wait(
            {ready, stopping, *watch}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        ready.cancel()
        self._check(watch)
        if not done:
            missing = [child for child in self._services if child.starts > 1] or self._services
            said = "; ".join(f"{child.name}: {sentence_of(child.last_line())}" for child in missing)
            raise CannotStart(f"The services did not come up in {READY_TIMEOUT_S:g} s. {self._full()}{said}")
        return not stopping.done()

    def _check(self, watch: list[asyncio.Task[int]]) -> None:
        """A child that gave up was set up wrongly: its last line says how."""
        for child, task in zip(self._children(), watch, strict=True):
            if task.done():
                raise CannotStart(child.last_line().removeprefix("yard: "))

    async def _show(self, bus: Bus, running: home.RunFile) -> None:
        banner.show(self._terminal, self._settings, running, time.monotonic() - self._began)
        await News(self._terminal).follow(bus)

    async def _stop(self, bus: Bus, again: asyncio.Event) -> None:
        """Let running answers finish for a moment; a second Ctrl-C does not wait for that."""
        self._terminal.say("\n  Stopping …")
        clearing = asyncio.create_task(self._clear(bus))
        hurry = asyncio.create_task(again.wait())
        await asyncio.wait({clearing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        clearing.cancel()
        hurry.cancel()
        await bus.close()

    async def _clear(self, bus: Bus) -> None:
        with contextlib.suppress(YardError):
            await bus.call(
                subjects.NODE_CLEAR, ClearNode(drain_s=DRAIN_S), timeout_s=20, node=self._settings.node
            )

    async def _end_children(self) -> None:
        await asyncio.gather(*(child.stop(STOP_S) for child in self._services))
        if self._broker is not None:
            await self._broker.stop(STOP_S)

    async def _end_leftovers(self) -> None:
        """Runners that the supervisor could not terminate any more, and what their engines left."""
        # Only now: it brings psutil, and the yard may run for weeks.
        from modelyard.host.processes import ProcessGroup, terminate

        for instance, runner in home.read_runners(self._settings).items():
            await terminate(runner.pid, runner.started_at, grace_s=1.0)
            if runner.engine_pid is not None and runner.engine_started_at is not None:
                with contextlib.suppress(TimeoutError):
                    group = ProcessGroup(runner.engine_pid, runner.engine_started_at, instance)
                    await asyncio.wait_for(group.kill(), STOP_S)
            home.forget_runner(self._settings, instance)


async def _all_answer(bus: Bus, roles: Sequence[Role]) -> None:
    """Each service announces itself as its last step."""
    for role in roles:
        while not await _answers(bus, role):
            await asyncio.sleep(_POLL_S)


async def _answers(bus: Bus, role: Role) -> bool:
    """Whether the service of this node does: those of other nodes answer too."""
    inbox = bus.nc.new_inbox()
    answers = await bus.nc.subscribe(inbox)
    try:
        await bus.nc.publish(f"$SRV.PING.{role}", reply=inbox)
        async with asyncio.timeout(1):
            while True:
                told = msgspec.json.decode((await answers.next_msg(timeout=1)).data, type=_Pong)
                if told.metadata.get("node") == bus.node:
                    return True
    except (TimeoutError, NatsError, msgspec.DecodeError):
        return False
    finally:
        with contextlib.suppress(NatsError):
            await answers.unsubscribe()
