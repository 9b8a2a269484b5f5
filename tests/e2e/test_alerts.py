"""A device gets hot: from its sample to the page, the webhook, the audit and the log, with real processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

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


@asynccontextmanager
async def simulated_card(yard: YardProcess) -> AsyncIterator[BucketStore[Device]]:
    """The bucket of devices, written as a monitor does."""
    settings = settings_of(yard.home, yard.nats_url)
    bus = await Bus.connect(settings, Role.MONITOR, url=yard.nats_url)
    try:
        yield BucketStore(bus, buckets.DEVICES)
    finally:
        await bus.close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at the page with")
async def test_a_hot_device_is_seen_told_silenced_and_over(yard: YardProcess, tmp_path: Path) -> None:
    async with (
        simulated_card(yard) as devices,
        receiver() as hook,
        browsing(tmp_path / "profile", f"{yard.url}/") as page,
    ):
        code, out, err = await yard_command(yard, "webhook", "add", "me", hook.url, "--json")
        assert code == 0, err
        secret = msgspec.json.decode(out)["secret"]
        assert (await yard_command(yard, "alert", "set", "device-hot", "for_s=0"))[0] == 0
        await devices.put("elsewhere.GPU-1", card("elsewhere", 97.0))
        await page.until_text("GPU-1 of elsewhere is at 97 °C")
        await hook.until(lambda hook: len(hook.taken) == 1)
        assert "97 °C" in (await yard_command(yard, "alerts"))[1]
        await page.click("Silence for an hour")
        await page.until_text("1 alert silenced")
        assert page.complaints == []
        # Whoever looks after alerts may die meanwhile; lines that it had not sent yet are lost.
        await logged(yard, "alert_firing")
        yard.service("monitor").kill()
        await devices.put("elsewhere.GPU-1", card("elsewhere", 50.0))
        await hook.until(lambda hook: len(hook.taken) == 2)
        await page.until("!document.body.innerText.includes('silenced')")
    firing, resolved = hook.taken
    assert [firing.type, resolved.type] == ["alert.firing", "alert.resolved"]
    assert is_signed(firing, secret)
    _, out, _ = await yard_command(yard, "audit", "--json")
    # Before these, the downloader put the demo model.
    told = [msgspec.json.decode(line, type=Audited) for line in out.splitlines()][-3:]
    assert [each.command for each in told] == ["webhook.put", "alert.put", "alert.silence"]
    assert [each.by.role for each in told] == [Role.OPERATOR, Role.OPERATOR, Role.GATEWAY]
    assert told[2].by.address == "127.0.0.1"


async def logged(yard: YardProcess, text: str) -> None:
    """The monitor's own line is found over HTTP, as soon as it is on the wire."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            url = f"{yard.url}/api/logs?service=monitor&grep={text}"
            async with session.get(url) as answer:
                assert answer.status == 200
                if lines := (await answer.json())["lines"]:
                    assert lines[0]["source"] == "monitor"
                    return
            await asyncio.sleep(0.1)
