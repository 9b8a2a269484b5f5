"""An alert of a hot device: from its sample to the page, the webhook, the audit and the log."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketStore
from schemas import buckets
from schemas.audit import Audited
from schemas.base import Role
from schemas.devices import Device
from tests.e2e.browser import CHROMIUM, browsing
from tests.e2e.yard_process import YardProcess, settings_of, yard_command
from tests.receiver import is_signed, receiver
from tests.standins import card
from tests.support import eventually


@asynccontextmanager
async def simulated_card(yard: YardProcess) -> AsyncIterator[BucketStore[Device]]:
    """The bucket of devices, with a monitor's login."""
    settings = settings_of(yard.home, yard.nats_url)
    bus = await Bus.connect(settings, Role.MONITOR, url=yard.nats_url)
    try:
        yield BucketStore(bus, buckets.DEVICES)
    finally:
        await bus.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
async def test_an_alert_of_a_hot_device_is_shown_published_silenced_and_resolved(
    new_yard: YardProcess, tmp_path: Path
) -> None:
    async with (
        simulated_card(new_yard) as devices,
        receiver() as hook,
        browsing(tmp_path / "profile", f"{new_yard.url}/") as page,
    ):
        code, out, err = await yard_command(new_yard, "webhook", "add", "me", hook.url, "--json")
        assert code == 0, err
        secret = msgspec.json.decode(out)["secret"]
        assert (await yard_command(new_yard, "alert", "set", "device-hot", "for_s=0"))[0] == 0
        await devices.put("far.GPU-1", card("far", 97.0))
        await page.until_text("GPU-1 of far is at 97 °C")
        await hook.until(lambda hook: len(hook.taken) == 1)
        assert "97 °C" in (await yard_command(new_yard, "alerts"))[1]
        await page.click("Silence for an hour")
        await page.until_text("1 alert silenced")
        assert page.errors == []
        # The monitor may be killed in between; its unpublished log lines are lost.
        await until_logged(new_yard, "alert_firing")
        new_yard.service("monitor").kill()
        await devices.put("far.GPU-1", card("far", 50.0))
        await hook.until(lambda hook: len(hook.taken) == 2)
        await page.until("!document.body.innerText.includes('silenced')")
    firing, resolved = hook.taken
    assert [firing.type, resolved.type] == ["alert.firing", "alert.resolved"]
    assert is_signed(firing, secret)
    _, out, _ = await yard_command(new_yard, "audit", "--json")
    # The downloader put the demo model before these.
    audited = [msgspec.json.decode(line, type=Audited) for line in out.splitlines()][-3:]
    assert [event.command for event in audited] == ["webhook.put", "alert.put", "alert.silence"]
    assert [event.by.role for event in audited] == [Role.OPERATOR, Role.OPERATOR, Role.GATEWAY]
    assert audited[2].by.address == "127.0.0.1"


async def until_logged(yard: YardProcess, text: str) -> None:
    """Wait until a log line of the monitor is found over HTTP."""
    async with aiohttp.ClientSession() as session:

        async def found() -> tuple[int, list[dict[str, Any]]] | None:
            url = f"{yard.url}/api/logs?service=monitor&grep={text}"
            async with session.get(url) as response:
                lines = (await response.json())["lines"]
                return (response.status, lines) if lines or response.status != 200 else None

        status, lines = await eventually(found, f"a log line with {text}", timeout_s=20, every_s=0.1)
        assert status == 200
        assert lines[0]["source"] == "monitor"
