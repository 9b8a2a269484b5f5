"""One nkey a role, kept under `YARD_HOME/keys`, readable by its owner alone."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import nkeys

from schemas.base import Record, Role

API_KEYS = "api-keys"
"""File of the gateway's API keys beside the seeds: one a line."""


class Member(Record):
    """A machine that joined: what the broker knows its logins by. Its seeds never leave it."""

    node: str
    joined_at: float
    keys: dict[Role, str]


def seed_path(folder: Path, role: Role) -> Path:
    return folder / f"{role}.nk"


def ensure_seeds(folder: Path, roles: Iterable[Role] = Role) -> None:
    """Make the seed of every role that has none yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for role in roles:
        path = seed_path(folder, role)
        if not path.exists():
            _write_secret(path, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())


def read_seed(folder: Path, role: Role) -> str:
    """The role's seed; FileNotFoundError if this home has none."""
    return seed_path(folder, role).read_text().strip()


def public_key(folder: Path, role: Role) -> str:
    """What the broker knows the role by."""
    key: bytes = nkeys.from_seed(bytearray(read_seed(folder, role).encode())).public_key
    return key.decode()


def yard_id(folder: Path) -> str:
    """What tells this yard from others; no secret."""
    return hashlib.sha256(public_key(folder, Role.OPERATOR).encode()).hexdigest()[:12]


def members(folder: Path) -> list[Member]:
    """Every machine that joined."""
    found = []
    for path in sorted((folder / "members").glob("*.json")):
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Member))
    return found


def write_member(folder: Path, member: Member) -> None:
    """Remember a machine that joined; one that was there before has new keys now."""
    (folder / "members").mkdir(exist_ok=True, mode=0o700)
    (folder / "members" / f"{member.node}.json").write_bytes(msgspec.json.encode(member))


def forget_member(folder: Path, node: str) -> bool:
    """Take its logins away; False if there is no such machine."""
    path = folder / "members" / f"{node}.json"
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def _write_secret(path: Path, secret: str) -> None:
    """Write beside, then rename: a reader sees the whole secret or none."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret + "\n")
    temporary.replace(path)
