"""The engine as a child process: started, its output kept, its port found, its end noticed."""

import asyncio
import collections
import signal
import time
from collections.abc import Callable
from pathlib import Path

from modelyard.bus import logs
from modelyard.host.processes import PROCESS_MARK, ProcessGroup, dying_with_parent
from schemas.instances import Reason
from schemas.logs import LogLine
from services.supervisor.engines.base import Engine, ServerCommand
from services.supervisor.runner.causes import cause, kernel_kills
from services.supervisor.runner.log_file import LogFile

log = logs.get(__name__)

MAX_LINE_BYTES = 8192
_READ_BYTES = 64 * 1024
_TAIL_LINES = 40
_LAST_OUTPUT_S = 2.0


class EngineProcess:
    """One server process. It dies with us, by order of the kernel."""

    def __init__(
        self,
        engine: Engine,
        log_path: Path,
        instance: str,
        given_port: int | None = None,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self.given_port = given_port
        """The port that we chose for it; None if it chooses."""
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Loopback port, once it is known."""
        if given_port is not None:
            self.port.set_result(given_port)
        self.ended = asyncio.Event()
        """Its first process is gone: nobody answers any more."""
        self.exited = asyncio.Event()
        """All of its processes are gone."""
        self.pending_lines: list[LogLine] = []
        """Lines not yet published."""
        self._log_path = log_path
        self._instance = instance
        self._on_progress = on_progress
        self._kernel_kills = kernel_kills()
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._group: ProcessGroup | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def group(self) -> ProcessGroup:
        """Itself and whatever it started."""
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
        """Keep what it prints until it ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        reading = asyncio.create_task(self._keep_output(self._process.stdout))
        await self._end()
        # Its pipe ends with it, unless it was left to somebody who is none of its own any more.
        await asyncio.wait({reading}, timeout=_LAST_OUTPUT_S)
        reading.cancel()
        self.exited.set()

    async def _end(self) -> None:
        """Once it has ended: what it started itself goes with it, or would keep memory and our pipe."""
        assert self._process is not None
        # Not `wait()`: depending on the loop that waits for the pipe too.
        await self.group.leader_gone()
        self.ended.set()
        await self.group.kill()
        await self._process.wait()

    async def _keep_output(self, stdout: asyncio.StreamReader) -> None:
        rest = b""
        with LogFile(self._log_path) as file:
            while data := await stdout.read(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                self._keep(file, lines)
                if len(rest) > MAX_LINE_BYTES:
                    self._keep(file, [rest])
                    rest = b""
                # Bars and dots grow on a line that is not ended yet.
                self._note_progress(rest.decode(errors="replace"))
            self._keep(file, [rest] if rest else [])

    def _keep(self, file: LogFile, lines: list[bytes]) -> None:
        file.write(lines)
        for line in lines:
            text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
            if text:
                self._tail.append(text)
                self.pending_lines.append(LogLine(at=time.time(), text=text))
            if not self.port.done() and (port := self.engine.port(text)) is not None:
                self.port.set_result(port)
            self._note_progress(text)

    def _note_progress(self, text: str) -> None:
        if text and (progress := self.engine.progress(text)) is not None:
            self._on_progress(progress)

    async def stop(self, grace_s: float) -> None:
        """TERM, wait up to `grace_s`, KILL, and wait until nothing of it is left, however long that takes."""
        if self._group is None:
            return
        self._group.signal_leader(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.exited.wait(), grace_s)
        except TimeoutError:
            log.warning("engine_is_killed", pid=self.pid, grace_s=grace_s)
            await self._group.kill()
            await self.exited.wait()

    def note_kernel_kills(self) -> None:
        """It lives: what the kernel has ended so far was not it."""
        self._kernel_kills = kernel_kills()

    def cause(self) -> Reason:
        """Why it ended, if it did so by itself."""
        killed = (kernel_kills() or 0) > (self._kernel_kills or 0)
        code = self._process.returncode if self._process else None
        return cause(self._tail, code, kernel_killed=killed)

    def epitaph(self) -> str:
        """How it ended and what it said last, in one sentence."""
        code = self._process.returncode if self._process else None
        how = (
            f"was ended by signal {-code}"
            if code is not None and code < 0
            else f"ended with exit code {code}"
        )
        return f"The engine {how}: {self.last_lines()}"

    def last_lines(self) -> str:
        """What it said last that tells something."""
        return telling_lines(list(self._tail))


def telling_lines(lines: list[str]) -> str:
    """The lines that tell a failure: errors if there are any, else the last ones."""
    errors = [line for line in lines if " E " in line or "error" in line.lower() or "failed" in line.lower()]
    return " | ".join((errors or lines)[-3:]) or "it said nothing."
