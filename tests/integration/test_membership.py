"""Membership of a yard: machines that are invited, join a running broker, and are expelled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from modelyard.bus.connection import Bus
from modelyard.host import credentials, home
from modelyard.host.broker import reload
from modelyard.host.home import Membership
from modelyard.host.settings import Settings, load
from modelyard.up.child import StartupError
from modelyard.up.invitation import Invitation, decode
from modelyard.up.inviter import BrokerAddress, Inviter, broker_address
from modelyard.up.joiner import membership
from schemas.base import Role
from schemas.errors import BrokerUnavailable
from tests.support import Yard, eventually


def newcomer(tmp_path: Path, node: str) -> Settings:
    settings = load({"YARD_HOME": str(tmp_path / node), "YARD_NODE": node})
    home.prepare(settings)
    return settings


@asynccontextmanager
async def inviting(yard: Yard, *, gateway: bool = False) -> AsyncIterator[Invitation]:
    """An invitation that is good inside the block."""
    word: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        Inviter(yard.settings, listening_on(yard), gateway=gateway).run(0, 20, word.set_result)
    )
    yield decode(await word)
    task.cancel()


def listening_on(yard: Yard) -> BrokerAddress:
    """On loopback, which `yard invite` refuses; here no other machine has to reach it."""
    return BrokerAddress("127.0.0.1", int(yard.url.rpartition(":")[2]))


async def join(
    settings: Settings, yard: Yard, invitation: Invitation | None, *, gateway: bool = False
) -> Membership:
    return await membership(settings, yard.url, invitation, gateway=gateway)


async def test_an_invited_machine_logs_in_and_other_connections_stay_open(yard: Yard, tmp_path: Path) -> None:
    gone: list[str] = []
    there = await yard.bus(Role.SUPERVISOR)
    there.on_reconnect(lambda: gone.append("reconnected"))
    b = newcomer(tmp_path, "b")
    async with inviting(yard) as invitation:
        member = await join(b, yard, invitation)
    assert member.yard == credentials.yard_id(yard.settings.credentials) == home.yard_of(b)
    for role in (Role.SUPERVISOR, Role.RUNNER, Role.OPERATOR):
        bus = await Bus.connect(b, role, url=home.broker_url(b))
        await bus.nc.flush()
        await bus.close()
    assert not (b.credentials / "gateway.nk").exists()
    await there.nc.flush()
    assert there.connected
    assert gone == []


async def test_an_invitation_is_valid_for_one_machine(yard: Yard, tmp_path: Path) -> None:
    async with inviting(yard) as invitation:
        await join(newcomer(tmp_path, "b"), yard, invitation)
        with pytest.raises(StartupError, match=r"used already|No machine responds|does not know"):
            await join(newcomer(tmp_path, "c"), yard, invitation)
    assert [member.node for member in credentials.members(yard.settings.credentials)] == ["b"]


async def test_a_taken_node_name_is_refused_but_the_same_machine_may_rejoin(
    yard: Yard, tmp_path: Path
) -> None:
    b = newcomer(tmp_path, "b")
    async with inviting(yard) as invitation:
        await join(b, yard, invitation)
    for settings in (newcomer(tmp_path / "other", "b"), newcomer(tmp_path / "other", "testnode")):
        async with inviting(yard) as invitation:
            with pytest.raises(StartupError, match="YARD_NODE"):
                await join(settings, yard, invitation)
    async with inviting(yard, gateway=True) as invitation:
        assert (await join(b, yard, invitation, gateway=True)).gateway
    await (await Bus.connect(b, Role.GATEWAY, url=yard.url)).close()


async def test_an_expelled_machine_is_disconnected_at_once(yard: Yard, tmp_path: Path) -> None:
    b = newcomer(tmp_path, "b")
    async with inviting(yard) as invitation:
        await join(b, yard, invitation)
    bus = await Bus.connect(b, Role.OPERATOR, url=yard.url)
    assert credentials.forget_member(yard.settings.credentials, "b")
    reload(yard.settings.credentials, home.broker_config(yard.settings))
    await eventually(lambda: not bus.connected, "the connection of the expelled machine is closed")
    await bus.nc.close()
    with pytest.raises(BrokerUnavailable):
        await Bus.connect(b, Role.OPERATOR, url=yard.url, timeout_s=1)


async def test_a_wrong_secret_is_refused(yard: Yard, tmp_path: Path) -> None:
    async with inviting(yard) as invitation:
        forged = Invitation(hosts=invitation.hosts, port=invitation.port, secret="guess", yard="")
        with pytest.raises(StartupError, match="does not know this invitation"):
            await join(newcomer(tmp_path, "b"), yard, forged)
    assert credentials.members(yard.settings.credentials) == []


async def test_a_broker_on_loopback_cannot_invite(yard: Yard) -> None:
    with pytest.raises(StartupError, match="--listen"):
        broker_address(yard.settings)
