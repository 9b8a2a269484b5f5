"""The child processes of `yard up`, with the broker: started, restarted after a crash, stopped with it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from modelyard.host.broker import configuration, find_server
from modelyard.host.credentials import ensure_seeds
from modelyard.host.home import broker_config
from modelyard.host.processes import EXIT_CONFIG, dying_with_parent
from modelyard.host.settings import Settings

_LOG_ROTATE_BYTES = 16 * 1024 * 1024


class StartupError(Exception):
    """The yard cannot start; the message is shown on the terminal."""


class Process(Protocol):
    """What a `Child` needs of `asyncio.subprocess.Process`."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, signal: int) -> None: ...


async def execute(argv: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a program with its output appended to `log`; the kernel sends it SIGTERM if this process dies."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dying_with_parent(signal.SIGTERM),
        )


class Child:
    """A process with its output in a log file; `start_process` starts it, or starts it again."""

    def __init__(self, name: str, log: Path, start_process: Callable[[], Awaitable[Process]]) -> None:
        self.name = name
        self.starts = 0
        self._log = log
        self._start_process = start_process
        self._process: Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        self.starts += 1
        _trim(self._log)
        self._process = await self._start_process()

    async def wait(self) -> int:
        assert self._process is not None
        return await self._process.wait()

    async def keep_running(self) -> int:
        """Restart after every crash, with back-off; returns when stopped, or on EXIT_CONFIG."""
        pause_s = 0.1
        while True:
            started_at = time.monotonic()
            code = await self.wait()
            if self._stopping or code == EXIT_CONFIG:
                return code
            pause_s = 0.1 if time.monotonic() - started_at > 10 else min(pause_s * 2, 5.0)
            await asyncio.sleep(pause_s)
            # A start that failed leaves the process that ended: it is tried again after a longer pause.
            with contextlib.suppress(StartupError):
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
        """The last line of the log, which usually has the reason of an exit."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "its log is empty"


def sentence_of(line: str) -> str:
    """The sentence in a log line: the error of a JSON record, else the line itself."""
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("error"), str):
            return str(record["error"])
    return line


def _trim(log: Path) -> None:
    """Rotate a large log; at most two files remain."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_ROTATE_BYTES:
            log.replace(log.with_suffix(".old.log"))


def claim_port(host: str, port: int, setting: str) -> int:
    """`port` if it is free, or any free one for 0; StartupError with a way out if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Servers set this too: a port whose last user just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError as error:
            raise StartupError(f"{port} is not a port.") from error
        except OSError as error:
            raise StartupError(
                f"Port {port} on {host} cannot be used ({error.strerror}); "
                f"set {setting} to a free port, or stop the program that uses it."
            ) from error
        return int(probe.getsockname()[1])


_START_TIMEOUT_S = 10.0
_POLL_S = 0.01


async def start_broker(settings: Settings, port: int) -> Child:
    """Start nats-server on `port` and return once it accepts connections; StartupError if it does not."""
    ensure_seeds(settings.credentials)
    config = broker_config(settings)
    config.write_text(
        configuration(
            settings.credentials,
            settings.home / "nats",
            host=settings.nats_host,
            port=port,
            pid_file=settings.run / "nats.pid",
        ),
        encoding="utf-8",
    )
    log, argv = settings.logs / "broker.log", [str(find_server()), "-c", str(config)]
    child = Child("broker", log, partial(execute, argv, dict(os.environ), log))
    await child.start()
    await _wait_until_listening(child, own_host(settings.nats_host), port)
    return child


def own_host(host: str) -> str:
    """The address by which this machine reaches a listener on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


async def _wait_until_listening(child: Child, host: str, port: int) -> None:
    ended = asyncio.ensure_future(child.wait())
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not ended.done():
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(host, port)
                    writer.close()
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise StartupError(f"The broker did not come up in {_START_TIMEOUT_S:g} s.") from None
    finally:
        ended.cancel()
    raise StartupError(f"The broker exited at once: {child.last_line()}")
