"""One process imports what the services need and forks them: they start at once and share its memory.

`python -m modelyard.up.prefork` reads requests on standard input and writes reports on standard output,
a JSON line each. It ends with its input; the services end with it (`die_with_parent`).
"""

import asyncio
import contextlib
import gc
import importlib
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from setproctitle import setproctitle

from modelyard.bus.service import run_service
from modelyard.host.processes import die_with_parent
from modelyard.up.child import StartupError
from schemas.base import SERVICES, Record, Role


class Fork(Record, tag="fork"):
    """Start a service with its output in the file `log`."""

    role: Role
    log: str


class Signal(Record, tag="signal"):
    """Send a signal to a service; without effect if it has ended."""

    pid: int
    number: int


class Forked(Record, tag="forked"):
    """The reply to `Fork`; replies have the order of the requests."""

    pid: int


class Exited(Record, tag="exited"):
    """A service has ended; `code` as in `subprocess`, negative for a signal."""

    pid: int
    code: int


class ForkedProcess:
    """A service, with the members of `asyncio.subprocess.Process` that `Child` needs."""

    def __init__(self, prefork: "Prefork", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._prefork = prefork

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signal: int) -> None:
        self._prefork.send(Signal(pid=self.pid, number=signal))

    def end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()


class Prefork:
    """The forking process; a new one replaces one that was killed."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        # Without SPT_NOENV the title of a process would overwrite the environment that `ps e` shows.
        self._environment = {**environment, "SPT_NOENV": "1"}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._forked: asyncio.Future[ForkedProcess] | None = None
        self._running: dict[int, ForkedProcess] = {}

    async def start(self, role: Role, log: Path) -> ForkedProcess:
        """Start a service with its output appended to `log`; StartupError if the forking process ends."""
        await asyncio.to_thread(log.touch)
        async with self._starting:
            if self._reader is None or self._reader.done():
                await self._launch()
            self._forked = asyncio.get_running_loop().create_future()
            self.send(Fork(role=role, log=str(log)))
            return await self._forked

    def send(self, request: Fork | Signal) -> None:
        """Send a request; without effect if the process has ended, and with it the services."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")

    async def close(self) -> None:
        """End the forking process, and with it the services that still run."""
        if self._process is not None and self._process.stdin is not None and self._reader is not None:
            self._process.stdin.close()
            await self._reader

    async def _launch(self) -> None:
        with self._log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "modelyard.up.prefork"),
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._reader = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._on_report(msgspec.json.decode(line, type=Forked | Exited))
        await process.wait()
        for pid in tuple(self._running):
            self._on_report(Exited(pid=pid, code=-signal.SIGTERM))
        if self._forked is not None and not self._forked.done():
            self._forked.set_exception(StartupError(f"The services cannot be started; see {self._log}."))

    def _on_report(self, report: Forked | Exited) -> None:
        match report:
            case Forked(pid=pid):
                assert self._forked is not None
                self._running[pid] = ForkedProcess(self, pid)
                self._forked.set_result(self._running[pid])
            case Exited(pid=pid, code=code):
                self._running.pop(pid).end(code)


def main() -> None:
    """Fork the requested services until standard input ends; in a fork, run the service."""
    with contextlib.suppress(ImportError):  # then it is the service that reports it
        for module in ("uvloop", *(f"services.{role}.service" for role in SERVICES)):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    parent = os.getpid()
    reports = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if (request := _fork_requested(sys.stdin.fileno(), reports)) is not None:
        _detach(Path(request.log))
        die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that took effect
            return
        setproctitle(f"{sys.executable} -m services.{request.role}")
        run_service(request.role, importlib.import_module(f"services.{request.role}.service").main)


def _fork_requested(requests: int, reports: int) -> Fork | None:
    """Serve requests; returns in every fork with its request, and None at the end of input."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: set[int] = set()
    unread = b""
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for exited in _reap(running):
                _write(reports, exited)
        if requests not in ready:
            continue
        if not (received := os.read(requests, 4096)):
            return None
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            match msgspec.json.decode(line, type=Fork | Signal):
                case Signal(pid=pid, number=number) if pid in running:
                    os.kill(pid, number)
                case Fork() as request:
                    if (pid := os.fork()) == 0:
                        return request
                    running.add(pid)
                    _write(reports, Forked(pid=pid))


def _reap(running: set[int]) -> Iterator[Exited]:
    """Collect the services that have ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        running.remove(pid)
        yield Exited(pid=pid, code=os.waitstatus_to_exitcode(status))


def _write(reports: int, report: Forked | Exited) -> None:
    os.write(reports, msgspec.json.encode(report) + b"\n")


def _detach(log: Path) -> None:
    """Leave the session, the signals and the open files of the forking process."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), 1)
    os.dup2(1, 2)
    # Not a range: in a container a process may have a thousand million files, each a call on an old kernel.
    for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
        if descriptor > 2:
            with contextlib.suppress(OSError):
                os.close(descriptor)


if __name__ == "__main__":
    main()
