"""The base of the contract: records, roles, tokens, names and ids."""

import re
import secrets
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, dataclass_transform

import msgspec


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class _Options(msgspec.StructMeta):
    """msgspec does not inherit `kw_only`; here every record has it."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> "_Options":
        return super().__new__(cls, name, bases, namespace, **{"frozen": True, "kw_only": True, **options})


class Record(msgspec.Struct, metaclass=_Options):
    """Immutable, named fields only; new fields get defaults, unknown ones are ignored, types never change."""


class Format(StrEnum):
    """The format of a model's files."""

    GGUF = "gguf"
    """A file of llama.cpp's, or the first of its shards."""
    SAFETENSORS = "safetensors"
    """A folder with config.json and weights, as the hub has it."""


class Role(StrEnum):
    """One login each, with its own nkey; what it may do follows from the contract."""

    GATEWAY = "gateway"
    DOWNLOADER = "downloader"
    SUPERVISOR = "supervisor"
    RUNNER = "runner"
    MONITOR = "monitor"
    OPERATOR = "operator"
    """A person or a script: the `yard` command, `modelyard.Client`, the nats CLI."""


SERVICES = (Role.GATEWAY, Role.DOWNLOADER, Role.SUPERVISOR, Role.MONITOR)


def inbox_prefix(role: Role) -> str:
    """Where replies to this role arrive. The operator uses NATS' own default, so any client works."""
    return "_INBOX" if role is Role.OPERATOR else f"_INBOX_{role}"


def role_of_inbox(subject: str) -> Role:
    """The role that subscribes to the inbox `subject`; no other can, so it proves the sender."""
    first = subject.partition(".")[0]
    return next((role for role in Role if inbox_prefix(role) == first), Role.OPERATOR)


GATEWAY, DOWNLOADER, SUPERVISOR = Role.GATEWAY, Role.DOWNLOADER, Role.SUPERVISOR
RUNNER, MONITOR, OPERATOR = Role.RUNNER, Role.MONITOR, Role.OPERATOR
WATCHERS = (GATEWAY, OPERATOR)
CALLERS = (GATEWAY, OPERATOR)
FETCHERS = (*CALLERS, SUPERVISOR)
"""Roles that may order transfers to a node, the scheduler included."""
AUDITING = (DOWNLOADER, SUPERVISOR, MONITOR)
"""Roles that serve commands with side effects."""
LONG_S, VERY_LONG_S = 30.0, 600.0
DRAIN_S = 60.0
"""Commands that wait until instances are drained and stopped are answered within this time."""
HUB_S = 60.0
"""Commands that query the hub first."""
DISK_S = 30.0
"""Commands that move many files are answered within this time."""


_TOKEN = re.compile(r"[A-Za-z0-9_=-]+")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_ENGINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_token(token: str) -> str:
    """Return `token` if it can stand as one subject token or bucket key; else ValueError."""
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            f"{token!r} is not a subject token: only letters, digits, '_', '=' and '-' are allowed"
        )
    return token


def is_token(word: str) -> bool:
    """Whether a word from outside can be one of our tokens at all."""
    return _TOKEN.fullmatch(word) is not None


def check_model_name(name: str) -> str:
    """Return `name` if a model may be called so; else ValueError with the rule in it."""
    if not _MODEL_NAME.fullmatch(name) or ".." in name or "//" in name or name.endswith("/"):
        raise ValueError(
            f"{name!r} is not a model name: start with a letter or digit and use at most 200 letters, "
            "digits and . _ : / @ + -, without '..' or '//'"
        )
    return name


def check_engine_name(name: str) -> str:
    """Return `name` if an engine may be called so; else ValueError with the rule in it."""
    if not _ENGINE.fullmatch(name):
        raise ValueError(f"{name!r} is no name for an engine: use letters, digits, '.', '_' and '-'")
    return name


def check_process(args: Iterable[str], env: Mapping[str, str]) -> None:
    """ValueError for arguments and environment variables that no process can be given."""
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"env has the name {name!r}: a name is not empty and has no =")
    if any("\0" in text for text in (*args, *env, *env.values())):
        raise ValueError("args and env must not have the character NUL in them")


def model_key(name: str) -> str:
    """The one subject token and bucket key of a model name: other characters become `=XX` (hex of UTF-8)."""
    check_model_name(name)
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"={b:02X}" for b in char.encode()) for char in name
    )


def model_name(key: str) -> str:
    """The inverse of `model_key`; ValueError if `key` was not made by it."""
    raw = re.sub(r"=([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), key)
    if model_key(raw) != key:
        raise ValueError(f"{key!r} is not a model key")
    return raw


def new_id() -> str:
    """A fresh id for a request, instance, download or event: 16 characters, safe as a token."""
    return secrets.token_hex(8)
