"""One nkey a role, kept under `YARD_HOME/keys`, readable by its owner alone."""

import os
from pathlib import Path

import nkeys

from schemas.roles import Role

API_KEYS = "api-keys"
"""File of the gateway's API keys beside the seeds: one a line."""


def seed_path(folder: Path, role: Role) -> Path:
    return folder / f"{role}.nk"


def ensure_seeds(folder: Path) -> None:
    """Make the seed of every role that has none yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for role in Role:
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


def _write_secret(path: Path, secret: str) -> None:
    """Write beside, then rename: a reader sees the whole secret or none."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret + "\n")
    temporary.replace(path)
