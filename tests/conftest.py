"""Fixtures of all tests: a home of its own and a real broker in it."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelyard.bus.ensure import ensure_all
from modelyard.host import home
from modelyard.host.settings import Settings, load
from modelyard.up.child import claim_port, start_broker
from schemas.base import Role
from tests.standins import Services, services
from tests.support import Yard

# The threads of an engine wait for each other by spinning. Where two engines share few processors, that makes
# a token take twenty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell starts background jobs with SIGINT ignored; the commands that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load({"YARD_HOME": str(tmp_path / "home"), "YARD_NODE": "testnode"})
    home.prepare(settings)
    return settings


@pytest.fixture
async def yard(settings: Settings) -> AsyncIterator[Yard]:
    port = claim_port("127.0.0.1", 0, "YARD_NATS_PORT")
    broker = await start_broker(settings, port)
    yard = Yard(settings, f"nats://127.0.0.1:{port}", broker)
    await ensure_all(await yard.bus(Role.SUPERVISOR))
    yield yard
    await yard.close()
    await broker.stop(2.0)


@pytest.fixture
async def standins(yard: Yard) -> AsyncIterator[Services]:
    """Stand-ins for the four services."""
    async with services(yard) as started:
        yield started
