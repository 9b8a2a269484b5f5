"""The inviting side: listens as long as the invitation is good, for one machine."""

import asyncio
import contextlib
import ipaddress
import json
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from modelyard.host import credentials
from modelyard.host.broker import BrokerMissing, reload
from modelyard.host.credentials import Member
from modelyard.host.home import broker_config
from modelyard.host.settings import Settings
from modelyard.up.child import CannotStart
from modelyard.up.invitation import (
    MAX_BYTES,
    MEMBER_ROLES,
    Invitation,
    Knock,
    Unfit,
    Welcome,
    check,
    sign,
    spell,
    verified,
)
from schemas.base import Role

_READ_S = 5.0


class Listening(NamedTuple):
    """Where the broker of this home listens."""

    host: str
    port: int


def listening(settings: Settings) -> Listening:
    """CannotStart where no other machine could reach the broker."""
    try:
        document = json.loads(broker_config(settings).read_text())
        found = Listening(document["host"], int(document["port"]))
    except (OSError, KeyError, ValueError):
        raise CannotStart("This home has no yard yet; start one with `yard up --listen ADDRESS`.") from None
    if "pid_file" not in document:
        raise CannotStart("Others can join a yard that `yard up` started; this broker was started otherwise.")
    if is_loopback(found.host):
        raise CannotStart(
            "The broker listens on this machine alone; start the yard with `yard up --listen ADDRESS`, "
            "where ADDRESS is this machine's in a network that you trust."
        )
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`."""
    return ipaddress.ip_address(host).is_loopback


def reachable(host: str) -> tuple[str, ...]:
    """The addresses under which others reach a listener on `host`."""
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return (host,)
    import psutil

    every = [one.address for addresses in psutil.net_if_addrs().values() for one in addresses]
    plain = [one for one in every if one.count(".") == 3 and not one.startswith(("127.", "169.254."))]
    return tuple(dict.fromkeys(plain))


class Inviting:
    """One invitation: `say` is told the word, and the name of the machine that came."""

    def __init__(self, settings: Settings, broker: Listening, *, gateway: bool) -> None:
        self._settings = settings
        self._roles = (*MEMBER_ROLES, Role.GATEWAY) if gateway else MEMBER_ROLES
        self._secret = secrets.token_urlsafe(24)
        self._broker = broker
        self._joined: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, port: int, timeout_s: float, say: Callable[[str], None]) -> str | None:
        """The name of the machine that joined; None if none did in time."""
        try:
            server = await asyncio.start_server(self._on_knock, self._broker.host, port, limit=MAX_BYTES)
        except OSError as error:
            raise CannotStart(
                f"Port {port} on {self._broker.host} cannot be used ({error.strerror}); try another --port."
            ) from error
        async with server:
            say(spell(self._invitation(server.sockets[0].getsockname()[1])))
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self._joined, timeout_s)
        return None

    def _invitation(self, port: int) -> Invitation:
        yard = credentials.yard_id(self._settings.credentials)
        return Invitation(hosts=reachable(self._broker.host), port=port, secret=self._secret, yard=yard)

    async def _on_knock(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            line = await asyncio.wait_for(reader.readline(), _READ_S)
            writer.write(sign(self._answer(line), self._secret))
            await writer.drain()
        writer.close()

    def _answer(self, line: bytes) -> Welcome:
        try:
            knock = verified(line, Knock, self._secret)
            check(knock, self._roles)
            self._let_in(knock)
        except (Unfit, BrokerMissing) as error:
            return Welcome(refusal=str(error))
        return Welcome(yard=credentials.yard_id(self._settings.credentials), nats_port=self._broker.port)

    def _let_in(self, knock: Knock) -> None:
        folder = self._settings.credentials
        known = {member.node: member.keys for member in credentials.members(folder)}
        known[self._settings.node] = {Role.SUPERVISOR: ""}
        if self._joined.done():
            raise Unfit("This invitation was used already; ask for a new one.")
        # The same machine may come again, to run a gateway as well.
        if known.get(knock.node, knock.keys).items() - knock.keys.items():
            raise Unfit(
                f"A node {knock.node} is in this yard already; set YARD_NODE to another name, "
                f"or have it leave: yard expel {knock.node}."
            )
        credentials.write_member(folder, Member(node=knock.node, joined_at=time.time(), keys=knock.keys))
        try:
            reload(folder, broker_config(self._settings))
        except BrokerMissing:
            credentials.forget_member(folder, knock.node)
            raise
        self._joined.set_result(knock.node)
