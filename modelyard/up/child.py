"""One child process of `yard up`: started, watched, started anew when it crashes, ended with us."""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelyard.host.processes import dying_with_parent

_LOG_KEEP_BYTES = 16 * 1024 * 1024
EXIT_CONFIG = 78
"""A child that ends so (EX_CONFIG) was set up wrongly: starting it again would not help."""


class CannotStart(Exception):
    """A part did not come up; the message is for the person at the terminal."""


class Child:
    """A program with its output in a log file."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.starts = 0
        self._argv = list(argv)
        self._env = dict(env)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the program; it gets SIGTERM from the kernel should we die."""
        self.starts += 1
        _trim(self._log)
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGTERM),
            )

    async def wait(self) -> int:
        assert self._process is not None
        return await self._process.wait()

    async def keep_running(self) -> int:
        """Start again after every crash, with growing pauses; return when stopped or set up wrongly."""
        pause_s = 0.1
        while True:
            began = time.monotonic()
            code = await self.wait()
            if self._stopping or code == EXIT_CONFIG:
                return code
            pause_s = 0.1 if time.monotonic() - began > 10 else min(pause_s * 2, 5.0)
            await asyncio.sleep(pause_s)
            await self.start()

    async def stop(self, grace_s: float) -> None:
        """TERM, wait, KILL, wait."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        for number, timeout_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), timeout_s)
                return

    def last_line(self) -> str:
        """The newest line of the log, which tells why it ended."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"


def sentence_of(line: str) -> str:
    """What a line of a service's log says to a person: its error, where it is a record that has one."""
    with contextlib.suppress(ValueError):
        told = json.loads(line)
        if isinstance(told, dict) and isinstance(told.get("error"), str):
            return str(told["error"])
    return line


def _trim(log: Path) -> None:
    """Put a grown log aside, so that two at most are kept."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_KEEP_BYTES:
            log.replace(log.with_suffix(".old.log"))
