"""Invitations, and the two messages of a join: no secret crosses the network.

The invitation's secret only signs them. The joining machine creates its own keys and sends the public ones.
"""

import base64
import hashlib
import hmac
import re
from typing import TypeVar

import msgspec

from schemas.base import Record, Role

PREFIX = "yard-invitation-"
MEMBER_ROLES = (Role.SUPERVISOR, Role.RUNNER, Role.DOWNLOADER, Role.MONITOR, Role.OPERATOR)
"""The logins of a joining machine."""
MAX_BYTES = 16 * 1024
_PUBLIC_KEY = re.compile(r"U[A-Z2-7]{55}")
_NODE = re.compile(r"[A-Za-z0-9_-]{1,64}")
T = TypeVar("T", bound=Record)


class InvalidInvitation(Exception):
    """An invitation or a signed message is invalid; the message says why."""


class Invitation(Record):
    """The address of the inviting machine, and the secret of this one invitation."""

    hosts: tuple[str, ...]
    port: int
    secret: str
    yard: str


class JoinRequest(Record):
    """From a joining machine: its name, and its public key of each role."""

    node: str
    version: str
    keys: dict[Role, str]


class JoinReply(Record):
    """Accepted; or `refusal` has the reason."""

    yard: str = ""
    nats_port: int = 0
    refusal: str | None = None


class _Signed(Record):
    body: msgspec.Raw
    mac: str


def encode(invitation: Invitation) -> str:
    """The invitation as one word, for copy and paste."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(invitation)).decode().rstrip("=")


def decode(word: str) -> Invitation:
    """The inverse of `encode`; InvalidInvitation for other text."""
    body = word.strip().removeprefix(PREFIX)
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Invitation)
    except (ValueError, msgspec.DecodeError):
        raise InvalidInvitation(
            "This is not an invitation; `yard invite` on the first machine prints one."
        ) from None


def sign(message: Record, secret: str) -> bytes:
    """The signed message as a line."""
    body = msgspec.json.encode(message)
    return msgspec.json.encode(_Signed(body=msgspec.Raw(body), mac=_mac(body, secret))) + b"\n"


def verified(line: bytes, type_: type[T], secret: str) -> T:
    """The message of a signed line; InvalidInvitation if the signature is not of this secret."""
    try:
        signed = msgspec.json.decode(line, type=_Signed)
        if hmac.compare_digest(signed.mac, _mac(bytes(signed.body), secret)):
            return msgspec.json.decode(signed.body, type=type_)
    except (ValueError, msgspec.DecodeError):
        pass
    raise InvalidInvitation(
        "The other machine does not know this invitation; it may have expired. Create a new one."
    )


def check(request: JoinRequest, roles: tuple[Role, ...]) -> None:
    """InvalidInvitation if the request exceeds the invitation."""
    if not _NODE.fullmatch(request.node):
        raise InvalidInvitation("The name of this machine is not a node name; set YARD_NODE.")
    if set(request.keys) != set(roles):
        raise InvalidInvitation(
            "This invitation is for other services; ask for one with or without `--gateway`."
        )
    if not all(_PUBLIC_KEY.fullmatch(key) for key in request.keys.values()):
        raise InvalidInvitation("These are not public keys.")


def _mac(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
