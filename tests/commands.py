"""The `yard` command as a real process, with or without a terminal."""

import asyncio
import contextlib
import json
import os
import pty
import sys
from typing import Any

import msgspec

from schemas.errors import ErrorBody
from tests.support import Yard

TIMEOUT_S = 20


class CommandResult(msgspec.Struct, frozen=True):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one JSON document."""
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def command_environment(yard: Yard, **more: str) -> dict[str, str]:
    """The environment of a shell that selects this yard."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("YARD_")},
        "YARD_HOME": str(yard.settings.home),
        "YARD_NATS_URL": yard.url,
        "TZ": "UTC",
        **more,
    }


async def start_command(yard: Yard, *args: str, **more: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.cli", *args),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=command_environment(yard, **more),
    )


async def run_command(yard: Yard, *args: str, stdin: str = "", **more: str) -> CommandResult:
    """Run one command to its end; it prints no traceback."""
    process = await start_command(yard, *args, **more)
    async with asyncio.timeout(TIMEOUT_S):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return CommandResult(process.returncode, out.decode(), err.decode())


async def refusal_code(yard: Yard, *args: str) -> str:
    """The code of a refused command; with --json the error is a document with the same sentence."""
    plain, machine = await run_command(yard, *args), await run_command(yard, *args, "--json")
    assert (plain.code, machine.code) == (1, 1)
    assert plain.err.startswith("yard: ")
    error = msgspec.json.decode(machine.out.splitlines()[-1], type=ErrorBody).error
    assert plain.err == machine.err
    assert error.message in plain.err
    return error.code


async def read_line_with(stream: asyncio.StreamReader, part: bytes) -> bytes:
    """The first line that contains `part`."""
    async for line in stream:
        if part in line:
            return line
    raise AssertionError(f"{part!r} was not printed")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, screen: int) -> None:
        self.process = process
        self._screen = screen
        self._loop = asyncio.get_running_loop()
        self._seen = b""
        self._more = asyncio.Event()
        self._loop.add_reader(screen, self._read)

    def _read(self) -> None:
        try:
            self._seen += os.read(self._screen, 65536)
        except OSError:
            # The program has ended.
            self._loop.remove_reader(self._screen)
        self._more.set()

    async def wait_for(self, text: str) -> str:
        """Wait until `text` is on the screen; returns what precedes it. The next call searches after it."""
        async with asyncio.timeout(TIMEOUT_S):
            while text.encode() not in self._seen:
                self._more.clear()
                await self._more.wait()
        before, self._seen = self._seen.split(text.encode(), 1)
        return before.decode()

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    async def wait(self) -> int:
        async with asyncio.timeout(TIMEOUT_S):
            code = await self.process.wait()
        self._loop.remove_reader(self._screen)
        os.close(self._screen)
        return code


async def start_on_terminal(yard: Yard, *args: str) -> Terminal:
    screen, end = pty.openpty()

    def take_over() -> None:
        with contextlib.suppress(OSError):
            os.setsid()
        os.close(os.open(os.ttyname(0), os.O_RDWR))

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.cli", *args),
        stdin=end,
        stdout=end,
        stderr=end,
        env=command_environment(yard, TERM="xterm", COLUMNS="80", LINES="25"),
        preexec_fn=take_over,
    )
    os.close(end)
    return Terminal(process, screen)
