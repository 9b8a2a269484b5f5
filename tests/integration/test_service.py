"""The lifecycle of a service process: a stop while it is set up, with and without its broker."""

import asyncio
import os
import signal
import sys

import pytest

from tests.support import Yard

_SCRIPT = """
import asyncio
from modelyard.bus.service import run_service
from schemas.base import Role

async def main(bus, settings, tasks):
    print("setting up", flush=True)
    await asyncio.Event().wait()

run_service(Role.MONITOR, main)
"""


@pytest.mark.parametrize("has_broker", [True, False])
async def test_a_stop_during_the_setup_ends_the_service(yard: Yard, has_broker: bool) -> None:
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SCRIPT),
        env={**os.environ, **yard.settings.as_environment(), "YARD_NATS_URL": yard.url},
        stdout=asyncio.subprocess.PIPE,
    )
    assert service.stdout is not None
    while b"setting up" not in await asyncio.wait_for(service.stdout.readline(), 20):
        pass
    if not has_broker:
        await yard.broker.stop(1.0)
    service.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(service.wait(), 20) == 0
