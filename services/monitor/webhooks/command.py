"""Telling a program of this machine: JSON on its standard input, no shell, a few variables, a time limit.

Whoever may name a program runs code as the yard's own user. So only a file in its home can: no API key, no
login of another machine.
"""

import asyncio
import contextlib
import os
import signal
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelyard.processes import Group, dying_with_parent
from schemas.record import Record
from schemas.webhooks import Wanted, check_hook_name
from services.monitor.webhooks.occurrence import Occurrence
from services.monitor.webhooks.sender import NotDelivered

FILE = "hooks.toml"
TIMEOUT_S = 10.0
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY")
"""Of the environment; the last three are what `notify-send` needs."""


class CommandHook(Record):
    """A program to be told."""

    name: str
    argv: tuple[str, ...]
    wanted: Wanted = Wanted()

    def __post_init__(self) -> None:
        check_hook_name(self.name)
        if not self.argv or not Path(self.argv[0]).is_absolute():
            raise ValueError("argv begins with the absolute path of a program")


class _File(Record):
    hook: tuple[CommandHook, ...] = ()


class BadFile(Exception):
    """The file cannot be used; the message is a sentence."""


def read_hooks(path: Path) -> tuple[CommandHook, ...]:
    """What the file names; none without one. BadFile rather than a guess."""
    try:
        with path.open("rb") as file:
            _check_owner(os.fstat(file.fileno()), path)
            return msgspec.convert(tomllib.load(file), _File).hook
    except FileNotFoundError:
        return ()
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} cannot be read: {error}.") from error


def _check_owner(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise BadFile(f"{path} could be written by others; make it yours alone (chmod 600).")


class CommandSender:
    """One program."""

    def __init__(self, argv: Sequence[str], folder: Path) -> None:
        self._argv = tuple(argv)
        self._folder = folder

    async def send(self, occurrence: Occurrence) -> None:
        """Run it; what it starts is ended with it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                cwd=self._folder,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )
        except OSError as error:
            raise NotDelivered(f"It cannot be run: {error.strerror}.") from None
        await self._wait(process, occurrence)

    async def _wait(self, process: asyncio.subprocess.Process, occurrence: Occurrence) -> None:
        group = Group.led_by(process.pid)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                with contextlib.suppress(ConnectionError):
                    await process.communicate(occurrence.body())
                code = await process.wait()
        except TimeoutError:
            raise NotDelivered(f"It ran longer than {TIMEOUT_S:g} s and was ended.") from None
        finally:
            await asyncio.shield(group.kill())
            await process.wait()
        if code != 0:
            raise NotDelivered(f"It ended with {code}.")
