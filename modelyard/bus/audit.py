"""Audit of commands: who sent one, and what it changed. `bus.micro` publishes the event."""

import getpass
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec

from schemas.audit import ACTOR_HEADER, Actor, AuditedChange
from schemas.base import Role

MAX_CHANGES = 50
MAX_BYTES = 4 * 1024
"""A value larger than this is not repeated in the event."""
HIDDEN = "•••"
_SECRET = re.compile(
    r"(^|[_\-.])(api[_\-]?key|key|token|secret|password|passwd|credential|auth|authorization)s?($|[_\-.])",
    re.I,
)
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_OPTION = re.compile(r"--?[A-Za-z][\w\-.]*")

_changes: ContextVar[list[AuditedChange] | None] = ContextVar("changes", default=None)


def begin() -> list[AuditedChange]:
    """Record the changes of this task from now on."""
    recorded: list[AuditedChange] = []
    _changes.set(recorded)
    return recorded


def changed(what: str, before: msgspec.Struct | None, after: msgspec.Struct | None) -> None:
    """Note that `what` was changed; what is the same in both is left out, and so are secrets."""
    recorded = _changes.get()
    if recorded is None:
        return
    old, new = _differing(_plain(before), _plain(after))
    recorded.append(AuditedChange(what=what, before=_shown(old), after=_shown(new)))


def _plain(value: msgspec.Struct | None) -> dict[str, Any] | None:
    return None if value is None else dict(msgspec.to_builtins(value))


def _differing(
    old: dict[str, Any] | None, new: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    if old is None or new is None:
        return old, new
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: old.get(name) for name in names}, {name: new.get(name) for name in names}


def _shown(value: dict[str, Any] | None) -> Any:
    if value is None:
        return None
    shown = without_secrets(value)
    size = len(msgspec.json.encode(shown))
    return shown if size <= MAX_BYTES else {"too_large_bytes": size}


def without_secrets(value: Any, name: str = "") -> Any:
    """`value` with what its name calls a secret hidden: in fields, in environments and in arguments."""
    if value and isinstance(value, str | list | tuple | dict) and _SECRET.search(name):
        return HIDDEN
    if isinstance(value, dict):
        hide = name == "env"
        return {key: HIDDEN if hide else without_secrets(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return _arguments([without_secrets(each) for each in value])
    return without_user(value) if isinstance(value, str) else value


def without_user(text: str) -> str:
    """URLs in a text without the name and the password in them."""
    return _USER.sub(HIDDEN, text)


def _arguments(words: list[Any]) -> list[Any]:
    """`--api-key=x` and `--api-key x` without the x."""
    shown, hide = [], False
    for word in words:
        text = word if isinstance(word, str) else ""
        option, equals, _ = text.partition("=")
        secret = bool(_OPTION.fullmatch(option) and _SECRET.search(option))
        if hide and not _OPTION.fullmatch(option):
            shown.append(HIDDEN)
        else:
            shown.append(f"{option}={HIDDEN}" if secret and equals else word)
        hide = secret and not equals
    return shown


MAX_USER = 64


def own_actor(role: Role, node: str) -> Actor:
    return Actor(role=role, node=node, user=_user() if role is Role.OPERATOR else None)


def _user() -> str | None:
    try:
        return getpass.getuser()[:MAX_USER]
    except (OSError, KeyError):
        # A number without a name, as in containers.
        return None


def actor_headers(actor: Actor) -> dict[str, str]:
    """As a header of a command."""
    return {ACTOR_HEADER: msgspec.json.encode(actor).decode()}


def verified_actor(role: Role, headers: Mapping[str, str] | None) -> Actor:
    """The sender, whose role is proven by its inbox, with the fields that this role may state itself."""
    try:
        actor = msgspec.json.decode((headers or {}).get(ACTOR_HEADER, "{}"), type=Actor)
    except msgspec.DecodeError:
        return Actor(role=role)
    if role is Role.GATEWAY:
        return Actor(role=role, key=actor.key, address=actor.address, node=actor.node)
    return Actor(role=role, user=(actor.user or "")[:MAX_USER] or None, node=actor.node)
