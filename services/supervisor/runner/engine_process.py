"""The engine as a child process: started, its output kept, its port found, its end noticed."""

import asyncio
import collections
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import BinaryIO

from modelyard import logging
from modelyard.processes import dying_with_parent, started_at, wait_gone
from schemas.logs import LogLine
from services.supervisor.engines.base import Engine, ServerCommand

log = logging.get(__name__)

MAX_LINE_BYTES = 8192
_READ_BYTES = 64 * 1024
_TAIL_LINES = 40


class EngineProcess:
    """One server process. It dies with us, by order of the kernel."""

    def __init__(self, engine: Engine, log_path: Path, given_port: int | None = None) -> None:
        self.engine = engine
        self.given_port = given_port
        """The port that we chose for it; None if it chooses."""
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Loopback port, once it is known."""
        if given_port is not None:
            self.port.set_result(given_port)
        self.exited = asyncio.Event()
        self.pending_lines: list[LogLine] = []
        """Lines not yet published."""
        self._log_path = log_path
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, command: ServerCommand) -> None:
        """Start the program in a session of its own; OSError if it cannot be run."""
        self._process = await asyncio.create_subprocess_exec(
            *command.argv,
            env=command.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dying_with_parent(signal.SIGKILL),
        )

    async def follow(self) -> None:
        """Keep what it prints until it ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        await asyncio.gather(self._keep_output(self._process.stdout), self._end())
        self.exited.set()

    async def _end(self) -> None:
        """Once it has ended: what it started itself goes with it, or would keep memory and our pipe."""
        assert self._process is not None
        # Not `wait()`: depending on the loop that waits for the pipe too.
        if (created_at := started_at(self.pid)) is not None:
            await wait_gone(self.pid, created_at)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()

    async def _keep_output(self, stdout: asyncio.StreamReader) -> None:
        rest = b""
        with self._log_path.open("ab", buffering=0) as file:
            while data := await stdout.read(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                self._keep(file, lines)
                if len(rest) > MAX_LINE_BYTES:
                    self._keep(file, [rest])
                    rest = b""
            self._keep(file, [rest] if rest else [])

    def _keep(self, file: BinaryIO, lines: list[bytes]) -> None:
        for line in lines:
            file.write(line + b"\n")
            text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
            if text:
                self._tail.append(text)
                self.pending_lines.append(LogLine(at=time.time(), text=text))
            if not self.port.done() and (port := self.engine.port(text)) is not None:
                self.port.set_result(port)

    async def stop(self, grace_s: float) -> None:
        """TERM, wait, KILL, wait."""
        process = self._process
        if process is None:
            return
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.exited.wait(), patience_s)
                return

    def epitaph(self) -> str:
        """How it ended and what it said last, in one sentence."""
        code = self._process.returncode if self._process else None
        how = (
            f"was ended by signal {-code}"
            if code is not None and code < 0
            else f"ended with exit code {code}"
        )
        return f"The engine {how}: {telling_lines(list(self._tail))}"


def telling_lines(lines: list[str]) -> str:
    """The lines that tell a failure: errors if there are any, else the last ones."""
    errors = [line for line in lines if " E " in line or "error" in line.lower() or "failed" in line.lower()]
    return " | ".join((errors or lines)[-3:]) or "it said nothing."
