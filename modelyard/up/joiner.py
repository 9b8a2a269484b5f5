"""The joining machine: an invitation becomes a membership, stored for the next start."""

import asyncio
import sys
from getpass import getpass
from urllib.parse import urlsplit

import msgspec

import modelyard
from modelyard.host import credentials, home, lan
from modelyard.host.home import Membership
from modelyard.host.settings import Settings
from modelyard.up.child import StartupError
from modelyard.up.invitation import (
    MAX_BYTES,
    MEMBER_ROLES,
    InvalidInvitation,
    Invitation,
    JoinReply,
    JoinRequest,
    decode,
    sign,
    verified,
)
from schemas.base import Role

_REQUEST_S = 5.0
_CONNECT_S = 2.0


def read_invitation(settings: Settings, *, gateway: bool) -> Invitation | None:
    """The invitation, if one is needed; StartupError if it is invalid.

    Read from the terminal without echo, or from a pipe; never from the command line.
    """
    current = home.read_membership(settings)
    if current is not None and (current.gateway or not gateway):
        return None
    try:
        if sys.stdin is not None and sys.stdin.isatty():
            return decode(getpass("Invitation (from `yard invite` on the first machine): "))
        return decode(sys.stdin.readline() if sys.stdin is not None else "")
    except InvalidInvitation as error:
        raise StartupError(str(error)) from error


async def membership(
    settings: Settings, url: str | None, invitation: Invitation | None, *, gateway: bool
) -> Membership:
    """The membership of the yard, at `url` if given; StartupError if the yard refuses."""
    current = home.read_membership(settings)
    if invitation is not None:
        current = await _join(settings, url, invitation, gateway=gateway)
    assert current is not None
    if url is not None:
        current = msgspec.structs.replace(current, nats_url=url)
    elif (
        not await _accepts_connections(current.nats_url)
        and (discovered := await _discover(current.yard)) is not None
    ):
        current = msgspec.structs.replace(current, nats_url=discovered)
    home.write_membership(settings, current)
    return current


async def _accepts_connections(url: str) -> bool:
    """Whether the stored address accepts connections; if so, discovery is not needed."""
    where = urlsplit(url)
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _discover(yard: str) -> str | None:
    """The yard's current address, if it is announced on the network."""
    return next((found.nats_url for found in await lan.browse() if found.yard == yard), None)


async def _join(settings: Settings, url: str | None, invitation: Invitation, *, gateway: bool) -> Membership:
    roles = (*MEMBER_ROLES, Role.GATEWAY) if gateway else MEMBER_ROLES
    credentials.ensure_seeds(settings.credentials, roles)
    keys = {role: credentials.public_key(settings.credentials, role) for role in roles}
    try:
        request = JoinRequest(node=settings.node, version=modelyard.__version__, keys=keys)
        host, reply = await _join_at_any_address(invitation, _host(url), request)
    except InvalidInvitation as error:
        raise StartupError(str(error)) from error
    if reply.refusal is not None:
        raise StartupError(reply.refusal)
    return Membership(yard=reply.yard, nats_url=nats_url(host, reply.nats_port), gateway=gateway)


async def _join_at_any_address(
    invitation: Invitation, host: str | None, request: JoinRequest
) -> tuple[str, JoinReply]:
    """The first host that replies: the given one, those of the invitation, the announced one."""
    hosts = (host,) if host else invitation.hosts
    for candidate in hosts:
        if (reply := await _send_request(candidate, invitation, request)) is not None:
            return candidate, reply
    announced = _host(await _discover(invitation.yard)) if host is None else None
    if announced and (reply := await _send_request(announced, invitation, request)) is not None:
        return announced, reply
    places = " or ".join(hosts)
    raise StartupError(
        f"No machine responds at {places} port {invitation.port}; is `yard invite` still running there?"
    )


async def _send_request(host: str, invitation: Invitation, request: JoinRequest) -> JoinReply | None:
    """The reply; None if the host does not accept connections."""
    try:
        async with asyncio.timeout(_REQUEST_S):
            reader, writer = await asyncio.open_connection(host, invitation.port, limit=MAX_BYTES)
            writer.write(sign(request, invitation.secret))
            line = await reader.readline()
    except (OSError, TimeoutError):
        return None
    writer.close()
    return verified(line, JoinReply, invitation.secret)


def _host(url: str | None) -> str | None:
    return urlsplit(url).hostname if url else None


def nats_url(host: str, port: int) -> str:
    return f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"
