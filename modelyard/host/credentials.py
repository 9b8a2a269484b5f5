"""One nkey per role in `YARD_HOME/keys`, readable only by its owner."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import nkeys

from schemas.base import Record, Role

API_KEYS = "api-keys"
"""The file of the gateway's API keys, one per line."""


class Member(Record):
    """A machine that joined the yard: the public keys of its logins. Its seeds never leave it."""

    node: str
    joined_at: float
    keys: dict[Role, str]


def seed_path(folder: Path, role: Role) -> Path:
    return folder / f"{role}.nk"


def ensure_seeds(folder: Path, roles: Iterable[Role] = Role) -> None:
    """Create the missing seeds."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for role in roles:
        path = seed_path(folder, role)
        if not path.exists():
            _write_secret(path, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())


def read_seed(folder: Path, role: Role) -> str:
    """The role's seed; FileNotFoundError if this home has none."""
    return seed_path(folder, role).read_text().strip()


def public_key(folder: Path, role: Role) -> str:
    """The role's public key, by which the broker identifies it."""
    key: bytes = nkeys.from_seed(bytearray(read_seed(folder, role).encode())).public_key
    return key.decode()


def yard_id(folder: Path) -> str:
    return hashlib.sha256(public_key(folder, Role.OPERATOR).encode()).hexdigest()[:12]


def members(folder: Path) -> list[Member]:
    members = []
    for path in sorted((folder / "members").glob("*.json")):
        with contextlib.suppress(msgspec.DecodeError):
            members.append(msgspec.json.decode(path.read_bytes(), type=Member))
    return members


def write_member(folder: Path, member: Member) -> None:
    """Store a machine that joined; its previous keys are replaced."""
    (folder / "members").mkdir(exist_ok=True, mode=0o700)
    (folder / "members" / f"{member.node}.json").write_bytes(msgspec.json.encode(member))


def forget_member(folder: Path, node: str) -> bool:
    """Remove its logins; False if the machine is unknown."""
    path = folder / "members" / f"{node}.json"
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def _write_secret(path: Path, secret: str) -> None:
    """Atomic: a reader sees the whole secret or none."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret + "\n")
    temporary.replace(path)
