"""Who asks for a command: said by the caller, believed only as far as it can be known."""

import getpass
from collections.abc import Mapping

import msgspec

from schemas.audit import ACTOR_HEADER, Actor
from schemas.roles import Role

MAX_USER = 64


def ourselves(role: Role, node: str) -> Actor:
    """What this process says of itself."""
    return Actor(role=role, node=node, user=_user() if role is Role.OPERATOR else None)


def _user() -> str | None:
    try:
        return getpass.getuser()[:MAX_USER]
    except (OSError, KeyError):
        # A number without a name, as in containers.
        return None


def headers(actor: Actor) -> dict[str, str]:
    """As it travels beside a command."""
    return {ACTOR_HEADER: msgspec.json.encode(actor).decode()}


def believed(role: Role, said: Mapping[str, str] | None) -> Actor:
    """Who waits for the answer as `role`, with what that role may say of itself."""
    try:
        actor = msgspec.json.decode((said or {}).get(ACTOR_HEADER, "{}"), type=Actor)
    except msgspec.DecodeError:
        return Actor(role=role)
    if role is Role.GATEWAY:
        return Actor(role=role, key=actor.key, address=actor.address, node=actor.node)
    return Actor(role=role, user=(actor.user or "")[:MAX_USER] or None, node=actor.node)
