"""The folder of one installation: who runs there, and where its broker is."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

import msgspec

from modelyard.host.credentials import yard_id
from modelyard.host.settings import Settings
from schemas.base import Record
from schemas.instances import Reason

DEFAULT_NATS_PORT = 4222


class RunFile(Record):
    """What `yard up` tells the other commands of this home."""

    pid: int
    nats_url: str
    gateway_url: str | None = None
    """None where no gateway runs: a machine that joined another's yard."""


class Membership(Record):
    """Another machine's yard that this home joined."""

    yard: str
    """Its id, by which it is found on the network again."""
    nats_url: str
    gateway: bool = False
    """Whether this machine may run a gateway."""


class AlreadyRunning(Exception):
    """Another `yard up` runs from this home."""


def run_file(settings: Settings) -> Path:
    return settings.run / "yard.json"


def read_run_file(settings: Settings) -> RunFile | None:
    """What the running `yard up` wrote; None if there is none."""
    try:
        return msgspec.json.decode(run_file(settings).read_bytes(), type=RunFile)
    except (OSError, msgspec.DecodeError):
        return None


def write_run_file(settings: Settings, content: RunFile) -> None:
    run_file(settings).write_bytes(msgspec.json.encode(content))


def read_membership(settings: Settings) -> Membership | None:
    """Whose yard this home joined; None if none."""
    try:
        return msgspec.json.decode(membership_file(settings).read_bytes(), type=Membership)
    except (OSError, msgspec.DecodeError):
        return None


def membership_file(settings: Settings) -> Path:
    return settings.credentials / "membership.json"


def write_membership(settings: Settings, membership: Membership) -> None:
    membership_file(settings).write_bytes(msgspec.json.encode(membership))


def broker_url(settings: Settings) -> str:
    """YARD_NATS_URL, else what `yard up` wrote down, else a yard joined, else the broker's usual place."""
    if settings.nats_url:
        return settings.nats_url
    if (known := read_run_file(settings) or read_membership(settings)) is not None:
        return known.nats_url
    return f"nats://127.0.0.1:{settings.nats_port or DEFAULT_NATS_PORT}"


def yard_of(settings: Settings) -> str | None:
    """The id of the yard that this home is, or joined; None if it is neither yet."""
    joined = read_membership(settings)
    if joined is not None:
        return joined.yard
    with contextlib.suppress(OSError):
        return yard_id(settings.credentials)
    return None


def broker_config(settings: Settings) -> Path:
    """What the broker of this home is started with."""
    return settings.run / "nats.conf"


def prepare(settings: Settings) -> None:
    """Make the folders. Only the owner may look: there are keys and logs inside."""
    plugins = settings.engine_plugins
    # A store that somebody named may be a disk that is not mounted now: its folder is not ours to make.
    store = () if settings.stores else (settings.models,)
    folders = (settings.home, *store, settings.logs, settings.run, settings.credentials)
    for folder in (*folders, plugins.parent, plugins):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.home.chmod(0o700)


def lock(settings: Settings, name: str = "lock") -> IO[str]:
    """Hold the home for this process as long as the file stays open; AlreadyRunning if it is held.

    `name`: of one service, which holds only its own part of the home.
    """
    file = (settings.run / name).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise AlreadyRunning(
            f"Modelyard runs from {settings.home} already (process {holder}); "
            "stop it, or set YARD_HOME to another folder."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


class RunnerFile(Record):
    """A runner's processes, written by itself for the time without a broker or supervisor."""

    pid: int
    started_at: float
    """Unix seconds, as the system says it; with the number it names one process for ever."""
    engine_pid: int | None = None
    engine_started_at: float | None = None


def _runner_file(settings: Settings, instance: str) -> Path:
    return settings.run / f"runner-{instance}.json"


def write_runner(settings: Settings, instance: str, content: RunnerFile) -> None:
    """Write or replace a runner's file, never half of it."""
    path = _runner_file(settings, instance)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(content))
    fresh.replace(path)


def read_runners(settings: Settings) -> dict[str, RunnerFile]:
    """Every runner that did not take its file away, by instance; its process may be gone all the same."""
    runners = {}
    for path in settings.run.glob("runner-*.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            instance = path.stem.removeprefix("runner-")
            runners[instance] = msgspec.json.decode(path.read_bytes(), type=RunnerFile)
    return runners


def forget_runner(settings: Settings, instance: str) -> None:
    """The runner and its engine are gone, and with them what it was told."""
    _runner_file(settings, instance).unlink(missing_ok=True)
    _reason_file(settings, instance).unlink(missing_ok=True)


def _reason_file(settings: Settings, instance: str) -> Path:
    return settings.run / f"stop-{instance}"


def leave_reason(settings: Settings, instance: str, reason: Reason) -> None:
    """Why a runner is about to get SIGTERM: a signal cannot say it, and the broker may be away."""
    _reason_file(settings, instance).write_text(reason)


def read_reason(settings: Settings, instance: str) -> Reason | None:
    """Why this runner was told to stop; None if it was a person's signal."""
    with contextlib.suppress(OSError, ValueError):
        return Reason(_reason_file(settings, instance).read_text())
    return None
