"""The home folder of one installation: its processes, membership and the address of its broker."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from modelyard.host.credentials import yard_id
from modelyard.host.settings import Settings
from schemas.base import Record
from schemas.instances import Reason

R = TypeVar("R", bound=Record)

DEFAULT_NATS_PORT = 4222


class RunFile(Record):
    """Written by `yard up` for the other commands of this home."""

    pid: int
    nats_url: str
    gateway_url: str | None = None
    """None where no gateway runs: on a machine that joined another yard."""


class Membership(Record):
    """The yard of another machine that this home joined."""

    yard: str
    """Its id, to find it again on the network."""
    nats_url: str
    gateway: bool = False
    """Whether this machine may run a gateway."""


class AlreadyRunning(Exception):
    """The home is locked by another process."""


def read_record(path: Path, kind: type[R]) -> R | None:
    """The record that a file has as JSON; None without the file, or where it has something else."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def run_file(settings: Settings) -> Path:
    return settings.run / "yard.json"


def read_run_file(settings: Settings) -> RunFile | None:
    """The run file of the running `yard up`; None if none runs."""
    return read_record(run_file(settings), RunFile)


def write_run_file(settings: Settings, content: RunFile) -> None:
    run_file(settings).write_bytes(msgspec.json.encode(content))


def read_membership(settings: Settings) -> Membership | None:
    """The joined yard; None if none."""
    return read_record(membership_file(settings), Membership)


def membership_file(settings: Settings) -> Path:
    return settings.credentials / "membership.json"


def write_membership(settings: Settings, membership: Membership) -> None:
    membership_file(settings).write_bytes(msgspec.json.encode(membership))


def broker_url(settings: Settings) -> str:
    """YARD_NATS_URL, else the run file, else the joined yard, else the default port on loopback."""
    if settings.nats_url:
        return settings.nats_url
    if (running := read_run_file(settings) or read_membership(settings)) is not None:
        return running.nats_url
    return f"nats://127.0.0.1:{settings.nats_port or DEFAULT_NATS_PORT}"


def yard_of(settings: Settings) -> str | None:
    """The id of the yard that this home is or joined; None before its first start."""
    joined = read_membership(settings)
    if joined is not None:
        return joined.yard
    with contextlib.suppress(OSError):
        return yard_id(settings.credentials)
    return None


def broker_config(settings: Settings) -> Path:
    return settings.run / "nats.conf"


def prepare(settings: Settings) -> None:
    """Create the folders, accessible only by their owner: they contain keys and logs."""
    plugins = settings.engine_plugins
    # A configured store may be a disk that is not mounted now: its folder is not ours to create.
    store = () if settings.stores else (settings.models,)
    folders = (settings.home, *store, settings.logs, settings.run, settings.credentials)
    for folder in (*folders, plugins.parent, plugins):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.home.chmod(0o700)


def lock(settings: Settings, name: str = "lock") -> IO[str]:
    """Lock the home for this process as long as the file stays open; AlreadyRunning if it is locked.

    `name`: the lock of one service, for its part of the home.
    """
    file = (settings.run / name).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise AlreadyRunning(
            f"Modelyard already runs from {settings.home} (process {holder}); "
            "stop it, or set YARD_HOME to another folder."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


class RunnerFile(Record):
    """The processes of a runner, for cleanup without a broker or supervisor."""

    pid: int
    started_at: float
    """Unix seconds from the system; with the pid it identifies one process for ever."""
    engine_pid: int | None = None
    engine_started_at: float | None = None


def _runner_file(settings: Settings, instance: str) -> Path:
    return settings.run / f"runner-{instance}.json"


def write_runner(settings: Settings, instance: str, content: RunnerFile) -> None:
    """Write or replace a runner's file atomically."""
    path = _runner_file(settings, instance)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(content))
    fresh.replace(path)


def read_runners(settings: Settings) -> dict[str, RunnerFile]:
    """All runner files by instance; a process may have ended without removing its file."""
    files = {path: read_record(path, RunnerFile) for path in settings.run.glob("runner-*.json")}
    return {path.stem.removeprefix("runner-"): file for path, file in files.items() if file is not None}


def forget_runner(settings: Settings, instance: str) -> None:
    """Remove the files of a runner that has ended."""
    _runner_file(settings, instance).unlink(missing_ok=True)
    _reason_file(settings, instance).unlink(missing_ok=True)


def _reason_file(settings: Settings, instance: str) -> Path:
    return settings.run / f"stop-{instance}"


def leave_reason(settings: Settings, instance: str, reason: Reason) -> None:
    """Store why a runner is about to get SIGTERM, which carries no reason; the broker may be unreachable."""
    _reason_file(settings, instance).write_text(reason)


def read_reason(settings: Settings, instance: str) -> Reason | None:
    """Why the supervisor stopped this runner; None after a signal from a person."""
    with contextlib.suppress(OSError, ValueError):
        return Reason(_reason_file(settings, instance).read_text())
    return None
