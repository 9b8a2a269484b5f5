"""The inviting machine: one join request per invitation, and the announcement of the yard by mDNS."""

import asyncio
import contextlib
import ipaddress
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from modelyard.host import credentials, lan
from modelyard.host.broker import BrokerMissing, reload
from modelyard.host.credentials import Member
from modelyard.host.home import broker_config
from modelyard.host.settings import Settings
from modelyard.up.child import StartupError
from modelyard.up.invitation import (
    MAX_BYTES,
    MEMBER_ROLES,
    InvalidInvitation,
    Invitation,
    JoinReply,
    JoinRequest,
    check,
    encode,
    sign,
    verified,
)
from modelyard.up.terminal import Terminal
from schemas.base import Role

_READ_S = 5.0


class BrokerAddress(NamedTuple):
    host: str
    port: int


def broker_address(settings: Settings) -> BrokerAddress:
    """The broker's address; StartupError if other machines cannot reach it."""
    try:
        document = json.loads(broker_config(settings).read_text())
        address = BrokerAddress(document["host"], int(document["port"]))
    except (OSError, KeyError, ValueError):
        raise StartupError("This home has no yard yet; start one with `yard up --listen ADDRESS`.") from None
    if "pid_file" not in document:
        raise StartupError(
            "Others can join a yard that `yard up` started; this broker was started otherwise."
        )
    if is_loopback(address.host):
        raise StartupError(
            "The broker listens on this machine alone; start the yard with `yard up --listen ADDRESS`, "
            "where ADDRESS is this machine's in a network that you trust."
        )
    return address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`."""
    return ipaddress.ip_address(host).is_loopback


def reachable(host: str) -> tuple[str, ...]:
    """The addresses under which others reach a listener on `host`."""
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return (host,)
    import psutil

    every = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries]
    ipv4 = (address for address in every if address.count(".") == 3)
    return tuple(dict.fromkeys(address for address in ipv4 if not address.startswith(("127.", "169.254."))))


class Inviter:
    """One invitation, valid for one machine."""

    def __init__(self, settings: Settings, broker: BrokerAddress, *, gateway: bool) -> None:
        self._settings = settings
        self._roles = (*MEMBER_ROLES, Role.GATEWAY) if gateway else MEMBER_ROLES
        self._secret = secrets.token_urlsafe(24)
        self._broker = broker
        self._joined: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, port: int, timeout_s: float, show: Callable[[str], None]) -> str | None:
        """Show the invitation and wait; the name of the machine that joined, or None in time."""
        try:
            server = await asyncio.start_server(self._on_connection, self._broker.host, port, limit=MAX_BYTES)
        except OSError as error:
            raise StartupError(
                f"Port {port} on {self._broker.host} cannot be used ({error.strerror}); try another --port."
            ) from error
        async with server:
            show(encode(self._invitation(server.sockets[0].getsockname()[1])))
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._joined, timeout_s)
        return None

    def _invitation(self, port: int) -> Invitation:
        yard = credentials.yard_id(self._settings.credentials)
        return Invitation(hosts=reachable(self._broker.host), port=port, secret=self._secret, yard=yard)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            line = await asyncio.wait_for(reader.readline(), _READ_S)
            writer.write(sign(self._answer(line), self._secret))
            await writer.drain()
        writer.close()

    def _answer(self, line: bytes) -> JoinReply:
        try:
            request = verified(line, JoinRequest, self._secret)
            check(request, self._roles)
            self._admit(request)
        except (InvalidInvitation, BrokerMissing) as error:
            return JoinReply(refusal=str(error))
        return JoinReply(yard=credentials.yard_id(self._settings.credentials), nats_port=self._broker.port)

    def _admit(self, request: JoinRequest) -> None:
        folder = self._settings.credentials
        members = {member.node: member.keys for member in credentials.members(folder)}
        members[self._settings.node] = {Role.SUPERVISOR: ""}
        if self._joined.done():
            raise InvalidInvitation("This invitation was used already; ask for a new one.")
        # The same machine may join again, to run a gateway as well.
        if members.get(request.node, request.keys).items() - request.keys.items():
            raise InvalidInvitation(
                f"A node {request.node} is in this yard already; set YARD_NODE to another name, "
                f"or have it leave: yard expel {request.node}."
            )
        credentials.write_member(folder, Member(node=request.node, joined_at=time.time(), keys=request.keys))
        try:
            reload(folder, broker_config(self._settings))
        except BrokerMissing:
            credentials.forget_member(folder, request.node)
            raise
        self._joined.set_result(request.node)


@contextlib.asynccontextmanager
async def announced(settings: Settings, terminal: Terminal, *, broker: bool) -> AsyncIterator[None]:
    """Announce the broker of this yard inside the block; without one, or on loopback, do nothing."""
    if not broker or is_loopback(settings.nats_host):
        yield
        return
    if not lan.available():
        terminal.print_line("  Not announced on the network: that needs modelyard[lan].")
        yield
        return
    async with contextlib.AsyncExitStack() as stack:
        yard = credentials.yard_id(settings.credentials)
        try:
            hosts, port = reachable(settings.nats_host), settings.nats_port
            await stack.enter_async_context(lan.announced(settings.node, yard, hosts, port))
        except OSError as error:
            terminal.print_line(f"  Not announced on the network: {error.strerror or error}.")
        yield
