"""The engine as a child process: its port, start, output, exit, and the reason of its exit."""

import asyncio
import collections
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from modelyard.bus import logs
from modelyard.host.processes import PROCESS_MARK, ProcessGroup, dying_with_parent
from modelyard.plugins import Engine, ServerCommand
from schemas.instances import Reason
from schemas.logs import LogLine
from services.supervisor.runner.engine_log import RotatingLogFile

log = logs.get(__name__)

_FIRST, _COUNT = 20_000, 12_000
"""Below the range of outgoing connections, which therefore take none of these ports."""
_ATTEMPTS = 100
MAX_LINE_BYTES = 8192
_READ_BYTES = 64 * 1024
_TAIL_LINES = 40
_LAST_OUTPUT_S = 2.0
_OUT_OF_MEMORY = re.compile(
    r"out of memory|outofmemory|out_of_memory|(failed|unable|cannot|can't) (to )?allocate|cudaMalloc failed"
    r"|no available memory for the cache|bad_alloc|MemoryError",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"mlock", re.IGNORECASE)
"""llama.cpp warns in the same words when it may not lock its pages, and continues."""
_VMSTAT = Path("/proc/vmstat")


class NoFreePort(Exception):
    """All attempts hit a port in use."""


def free_port() -> int:
    """A free port, chosen at random, so that two runners that start at once get different ones."""
    for _ in range(_ATTEMPTS):
        port = _FIRST + secrets.randbelow(_COUNT)
        if not is_taken(port):
            return port
    raise NoFreePort(f"Of {_ATTEMPTS} ports from {_FIRST} on, not one was free.")


def is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: a port that was just closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class EngineProcess:
    """One server process. The kernel kills it when the runner dies."""

    def __init__(
        self,
        engine: Engine,
        log_path: Path,
        instance: str,
        assigned_port: int | None = None,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self.assigned_port = assigned_port
        """The port that the runner chose; None if the engine chooses."""
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Loopback port, once it is known."""
        if assigned_port is not None:
            self.port.set_result(assigned_port)
        self.leader_exited = asyncio.Event()
        """Its first process has exited: it answers no more."""
        self.exited = asyncio.Event()
        """All of its processes have exited."""
        self.pending_lines: list[LogLine] = []
        """Output lines that are not published yet."""
        self._log_path = log_path
        self._instance = instance
        self._on_progress = on_progress
        self._oom_kills = kernel_oom_kills()
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._group: ProcessGroup | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def group(self) -> ProcessGroup:
        """The engine and its child processes."""
        assert self._group is not None
        return self._group

    async def start(self, command: ServerCommand) -> None:
        """Start the program in a session of its own; OSError if it cannot be run."""
        self._process = await asyncio.create_subprocess_exec(
            *command.argv,
            env={**command.env, PROCESS_MARK: self._instance},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dying_with_parent(signal.SIGKILL),
        )
        self._group = ProcessGroup.led_by(self._process.pid, self._instance)

    async def follow(self) -> None:
        """Read its output until it exits."""
        assert self._process is not None
        assert self._process.stdout is not None
        reading = asyncio.create_task(self._read_output(self._process.stdout))
        await self._wait_for_exit()
        # The pipe closes with it, unless a detached process holds it open.
        await asyncio.wait({reading}, timeout=_LAST_OUTPUT_S)
        reading.cancel()
        self.exited.set()

    async def _wait_for_exit(self) -> None:
        """Its child processes are killed after it: they would hold memory and our pipe."""
        assert self._process is not None
        # Not `wait()`: depending on the event loop it also waits for the pipe.
        await self.group.leader_gone()
        self.leader_exited.set()
        await self.group.kill()
        await self._process.wait()

    async def _read_output(self, stdout: asyncio.StreamReader) -> None:
        rest = b""
        with RotatingLogFile(self._log_path) as file:
            while data := await stdout.read(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                self._store(file, lines)
                if len(rest) > MAX_LINE_BYTES:
                    self._store(file, [rest])
                    rest = b""
                # Progress bars and dots grow on an incomplete line.
                self._parse_progress(rest.decode(errors="replace"))
            self._store(file, [rest] if rest else [])

    def _store(self, file: RotatingLogFile, lines: list[bytes]) -> None:
        file.write(lines)
        for line in lines:
            text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
            if text:
                self._tail.append(text)
                self.pending_lines.append(LogLine(at=time.time(), text=text))
            if not self.port.done() and (port := self.engine.parse_port(text)) is not None:
                self.port.set_result(port)
            self._parse_progress(text)

    def _parse_progress(self, text: str) -> None:
        if text and (progress := self.engine.parse_progress(text)) is not None:
            self._on_progress(progress)

    async def stop(self, grace_s: float) -> None:
        """TERM, wait up to `grace_s`, KILL, and wait until all its processes have exited."""
        if self._group is None:
            return
        self._group.signal_leader(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.exited.wait(), grace_s)
        except TimeoutError:
            log.warning("engine_killed", pid=self.pid, grace_s=grace_s)
            await self._group.kill()
            await self.exited.wait()

    def reset_oom_kills(self) -> None:
        """Ignore the kernel's kills so far: the engine is alive, so they were of other processes."""
        self._oom_kills = kernel_oom_kills()

    def exit_reason(self) -> Reason:
        """Why it exited, if it was not stopped."""
        kernel_killed = (kernel_oom_kills() or 0) > (self._oom_kills or 0)
        return exit_reason(self._tail, self._exit_code, kernel_killed=kernel_killed)

    def exit_summary(self) -> str:
        """How it exited and its last relevant output, in one sentence."""
        return f"The engine {describe_exit(self._exit_code)}: {self.last_lines()}"

    def last_lines(self) -> str:
        """The last lines with errors, or else the last lines."""
        lines = list(self._tail)
        errors = [
            line for line in lines if " E " in line or "error" in line.lower() or "failed" in line.lower()
        ]
        return " | ".join((errors or lines)[-3:]) or "it printed nothing."

    def reports_taken_port(self) -> bool:
        """Whether its last output reports that: the server that had the port may have ended since."""
        return any("address already in use" in line.lower() for line in self._tail)

    @property
    def _exit_code(self) -> int | None:
        return self._process.returncode if self._process else None


def exit_reason(lines: Iterable[str], exit_code: int | None, *, kernel_killed: bool) -> Reason:
    """OOM or CRASHED, by the last output, the exit code and whether the kernel's OOM killer was active."""
    if exit_code == -signal.SIGKILL and kernel_killed:
        return Reason.OOM
    return Reason.OOM if any(map(is_out_of_memory, lines)) else Reason.CRASHED


def describe_exit(code: int | None) -> str:
    """The exit code of a process, or its signal, as the end of a sentence."""
    return f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def is_out_of_memory(line: str) -> bool:
    return bool(_OUT_OF_MEMORY.search(line)) and not _HARMLESS.search(line)


def kernel_oom_kills(vmstat: Path = _VMSTAT) -> int | None:
    """The number of processes that the kernel's OOM killer has ended; None where the kernel has no count."""
    try:
        counts = dict(line.split() for line in vmstat.read_text().splitlines())
        return int(counts["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None
