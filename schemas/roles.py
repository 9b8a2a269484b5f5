"""Who logs in to the broker."""

from enum import StrEnum


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
    """Where replies to this role arrive. The operator keeps NATS' own default, so any client works."""
    return "_INBOX" if role is Role.OPERATOR else f"_INBOX_{role}"


def role_of_inbox(subject: str) -> Role:
    """Who waits for a reply at `subject`: only he can hear it there, so it tells who asked."""
    first = subject.partition(".")[0]
    return next((role for role in Role if inbox_prefix(role) == first), Role.OPERATOR)
