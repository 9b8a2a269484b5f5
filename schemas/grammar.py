"""What a token, a model name and an id may look like on the wire."""

import re
import secrets
from collections.abc import Iterable, Mapping

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
