"""Programs that receive webhook events: `YARD_HOME/hooks.toml` on the first machine.

A program runs as the yard's own user. So only a file in its home can name one: no API key and no login of
another machine.
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


class HooksFileError(Exception):
    """The file is invalid; the message is a sentence."""


def read_hooks(settings: Settings) -> tuple[CommandHook, ...]:
    """The programs of the file; none without one. HooksFileError if it is invalid."""
    path = hooks_path(settings)
    try:
        with path.open("rb") as file:
            _check_owner(os.fstat(file.fileno()), path)
            return msgspec.convert(tomllib.load(file), _File).hook
    except FileNotFoundError:
        return ()
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise HooksFileError(f"{path} cannot be read: {error}.") from error


def _check_owner(status: os.stat_result, path: Path) -> None:
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise HooksFileError(f"{path} could be written by others; make it yours alone (chmod 600).")


def hooks_path(settings: Settings) -> Path:
    return settings.home / FILE


def write_hooks(settings: Settings, hooks: Iterable[CommandHook]) -> None:
    """Replace the file atomically, readable by its owner alone: arguments may be secret."""
    path = hooks_path(settings)
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(tomli_w.dumps({"hook": [msgspec.to_builtins(hook) for hook in hooks]}))
    temporary.replace(path)
