"""An invitation, and the two messages by which a machine joins: nothing secret crosses the network.

The invitation's secret only signs them. The machine that joins makes its own keys and sends the public ones.
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
"""The logins of a machine that joins."""
MAX_BYTES = 16 * 1024
_PUBLIC_KEY = re.compile(r"U[A-Z2-7]{55}")
_NODE = re.compile(r"[A-Za-z0-9_-]{1,64}")
T = TypeVar("T", bound=Record)


class Unfit(Exception):
    """An invitation, or a message of the two, is not what it must be; the message says how."""


class Invitation(Record):
    """Where to knock, and the secret of this one invitation."""

    hosts: tuple[str, ...]
    port: int
    secret: str
    yard: str


class Knock(Record):
    """A machine that wants to join: its name, and its public key of each role."""

    node: str
    version: str
    keys: dict[Role, str]


class Welcome(Record):
    """It may; or `refusal` says why not."""

    yard: str = ""
    nats_port: int = 0
    refusal: str | None = None


class _Signed(Record):
    body: msgspec.Raw
    mac: str


def spell(invitation: Invitation) -> str:
    """As one word, to be copied."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(invitation)).decode().rstrip("=")


def read(word: str) -> Invitation:
    """What `spell` made; Unfit if it is something else."""
    body = word.strip().removeprefix(PREFIX)
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Invitation)
    except (ValueError, msgspec.DecodeError):
        raise Unfit("This is not an invitation; `yard invite` on the first machine prints one.") from None


def sign(message: Record, secret: str) -> bytes:
    """The message as a line, signed."""
    body = msgspec.json.encode(message)
    return msgspec.json.encode(_Signed(body=msgspec.Raw(body), mac=_mac(body, secret))) + b"\n"


def verified(line: bytes, type_: type[T], secret: str) -> T:
    """The message of a signed line; Unfit if it was not signed with this secret."""
    try:
        signed = msgspec.json.decode(line, type=_Signed)
        if hmac.compare_digest(signed.mac, _mac(bytes(signed.body), secret)):
            return msgspec.json.decode(signed.body, type=type_)
    except (ValueError, msgspec.DecodeError):
        pass
    raise Unfit("The other side does not know this invitation; it may have ended. Ask for a new one.")


def check(knock: Knock, roles: tuple[Role, ...]) -> None:
    """Unfit if the machine asks for what it was not invited to."""
    if not _NODE.fullmatch(knock.node):
        raise Unfit("The name of this machine is not a node name; set YARD_NODE.")
    if set(knock.keys) != set(roles):
        raise Unfit("This invitation is for other services; ask for one with or without `--gateway`.")
    if not all(_PUBLIC_KEY.fullmatch(key) for key in knock.keys.values()):
        raise Unfit("These are not public keys.")


def _mac(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
