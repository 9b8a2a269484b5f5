"""The joining side: an invitation becomes a membership, which is kept for the next start."""

import asyncio
import sys
from getpass import getpass
from urllib.parse import urlsplit

import msgspec

import modelyard
from modelyard.host import credentials, home, lan
from modelyard.host.home import Membership
from modelyard.host.settings import Settings
from modelyard.up.child import CannotStart
from modelyard.up.invitation import (
    MAX_BYTES,
    MEMBER_ROLES,
    Invitation,
    Knock,
    Unfit,
    Welcome,
    read,
    sign,
    verified,
)
from schemas.base import Role

_DIAL_S = 5.0
_LOOK_S = 2.0


def ask(settings: Settings, *, gateway: bool) -> Invitation | None:
    """The invitation, where one is needed; CannotStart if what is given is none.

    From the terminal without showing it, or from a pipe: never from the command line.
    """
    known = home.read_membership(settings)
    if known is not None and (known.gateway or not gateway):
        return None
    try:
        if sys.stdin is not None and sys.stdin.isatty():
            return read(getpass("Invitation (from `yard invite` on the first machine): "))
        return read(sys.stdin.readline() if sys.stdin is not None else "")
    except Unfit as error:
        raise CannotStart(str(error)) from error


async def membership(
    settings: Settings, url: str | None, invitation: Invitation | None, *, gateway: bool
) -> Membership:
    """The yard to work for, at `url` if given; CannotStart with a sentence if it does not take us."""
    known = home.read_membership(settings)
    if invitation is not None:
        known = await _join(settings, url, invitation, gateway=gateway)
    assert known is not None
    if url is not None:
        known = msgspec.structs.replace(known, nats_url=url)
    elif not await _answers(known.nats_url) and (found := await _found(known.yard)) is not None:
        known = msgspec.structs.replace(known, nats_url=found)
    home.write_membership(settings, known)
    return known


async def _answers(url: str) -> bool:
    """Whether somebody listens at the remembered place: what is known needs no word of the network."""
    where = urlsplit(url)
    try:
        async with asyncio.timeout(_LOOK_S):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _found(yard: str) -> str | None:
    """Where the yard is now, if it says so on the network."""
    return next((one.nats_url for one in await lan.browse() if one.yard == yard), None)


async def _join(settings: Settings, url: str | None, invitation: Invitation, *, gateway: bool) -> Membership:
    roles = (*MEMBER_ROLES, Role.GATEWAY) if gateway else MEMBER_ROLES
    credentials.ensure_seeds(settings.credentials, roles)
    keys = {role: credentials.public_key(settings.credentials, role) for role in roles}
    try:
        knock = Knock(node=settings.node, version=modelyard.__version__, keys=keys)
        host, welcome = await _knock_anywhere(invitation, _host(url), knock)
    except Unfit as error:
        raise CannotStart(str(error)) from error
    if welcome.refusal is not None:
        raise CannotStart(welcome.refusal)
    return Membership(yard=welcome.yard, nats_url=nats_url(host, welcome.nats_port), gateway=gateway)


async def _knock_anywhere(invitation: Invitation, host: str | None, knock: Knock) -> tuple[str, Welcome]:
    """The first address that answers: as told, as the invitation says, as the network says."""
    hosts = (host,) if host else invitation.hosts
    for one in hosts:
        if (welcome := await _knock(one, invitation, knock)) is not None:
            return one, welcome
    found = _host(await _found(invitation.yard))
    if host is None and found and (welcome := await _knock(found, invitation, knock)) is not None:
        return found, welcome
    places = " or ".join(hosts)
    raise CannotStart(
        f"Nobody answers at {places} port {invitation.port}; is `yard invite` still running there?"
    )


async def _knock(host: str, invitation: Invitation, knock: Knock) -> Welcome | None:
    """What is answered there; None if nobody listens."""
    try:
        async with asyncio.timeout(_DIAL_S):
            reader, writer = await asyncio.open_connection(host, invitation.port, limit=MAX_BYTES)
            writer.write(sign(knock, invitation.secret))
            line = await reader.readline()
    except (OSError, TimeoutError):
        return None
    writer.close()
    return verified(line, Welcome, invitation.secret)


def _host(url: str | None) -> str | None:
    return urlsplit(url).hostname if url else None


def nats_url(host: str, port: int) -> str:
    """A broker's URL."""
    return f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"
