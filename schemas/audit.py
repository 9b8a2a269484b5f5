"""The audit trail: one event for every command with side effects, including refused ones."""

from enum import StrEnum
from typing import Any

from schemas.base import Record, Role
from schemas.errors import ErrorDetail

ACTOR_HEADER = "Yard-Actor"
"""On a command: `Actor` as JSON, as the caller states it."""
NO_TARGET = "yard"
"""The target of a command that names none."""


class Actor(Record, omit_defaults=True):
    """Who sent a command.

    `role` is the login that waits for the answer. `key` and `address` count from the gateway alone, which
    takes them from what it checked, never from a client. `user` is what an operator's program states.
    """

    role: Role
    key: str | None = None
    """Id of the API key, never the key."""
    address: str | None = None
    """The remote address of the HTTP request."""
    user: str | None = None
    node: str | None = None


class AuditOutcome(StrEnum):
    """The outcome of a command."""

    DONE = "done"
    REFUSED = "refused"


class AuditedChange(Record):
    """One thing that is different now, as far as it differs; secrets are left out."""

    what: str
    """`model demo`."""
    before: Any = None
    after: Any = None
    """None: it was not there, or is not any more."""


class Audited(Record):
    """A command that changed something, or was refused."""

    command: str
    """`model.put`"""
    target: str
    """The name of its target."""
    by: Actor
    at: float
    outcome: AuditOutcome
    error: ErrorDetail | None = None
    """Why it was refused."""
    changes: tuple[AuditedChange, ...] = ()
    more: int = 0
    """How many changes are not listed."""
