"""Where a hook's URL and secret are: a file each, for the yard's own user alone, and nowhere else."""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from modelyard.host.settings import Settings
from schemas.base import Record

_FOLDER = "webhooks"


class HookSecret(Record):
    """What is not told to anybody."""

    url: str
    secret: str


class Secrets:
    """The files of all hooks."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.credentials / _FOLDER

    def read(self, name: str) -> HookSecret | None:
        """None if there is none that can be read."""
        try:
            return msgspec.json.decode(self._path(name).read_bytes(), type=HookSecret)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, name: str, secret: HookSecret) -> None:
        """Beside, then renamed: a reader sees all of it or what was before."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._path(name).with_suffix(f".{os.getpid()}")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(secret))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path(name))

    def forget(self, name: str) -> None:
        """The hook is gone."""
        self._path(name).unlink(missing_ok=True)

    def keep_only(self, names: Collection[str]) -> None:
        """Take away what belongs to no hook any more."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.suffix != ".json" or path.stem not in names:
                    path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
