"""Programs that receive events: `YARD_HOME/hooks.toml` on the first machine.

A hook runs code as the yard's own user, so only this file can define one: no API key and no login of another
machine can.
"""

import os
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path

import msgspec
import tomli_w

from modelyard.host.settings import Settings
from schemas.base import Record
from schemas.webhooks import WebhookFilter, check_hook_name

FILE = "hooks.toml"


class CommandHook(Record):
    """A program that receives events."""

    name: str
    argv: tuple[str, ...]
    wanted: WebhookFilter = WebhookFilter()

    def __post_init__(self) -> None:
        check_hook_name(self.name)
        if not self.argv or not Path(self.argv[0]).is_absolute():
            raise ValueError("argv begins with the absolute path of a program")


class _File(Record):
    hook: tuple[CommandHook, ...] = ()


class BadFile(Exception):
    """The file is invalid; the message says how."""


def read_hooks(settings: Settings) -> tuple[CommandHook, ...]:
    """The hooks in the file; empty without a file. BadFile if it is invalid."""
    path = hooks_file(settings)
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


def hooks_file(settings: Settings) -> Path:
    return settings.home / FILE


def write_hooks(settings: Settings, hooks: Iterable[CommandHook]) -> None:
    """Written atomically and readable only by its owner: arguments may be secret."""
    path = hooks_file(settings)
    fresh = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(tomli_w.dumps({"hook": [msgspec.to_builtins(hook) for hook in hooks]}))
    fresh.replace(path)
