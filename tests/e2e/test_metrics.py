"""A yard that is watched: simulated cards, an instance at work, and a monitor that dies."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import aiohttp

from tests.e2e.chatting import chat
from tests.e2e.yard_process import YardProcess, running_yard

CARD = """
[[devices]]
device = "SIM-0"
kind = "gpu"
name = "Card of a demonstration"
memory_total_bytes = 1000000
memory_used_bytes = 0
utilization_pct = [10, 90]
"""
TIMEOUT_S = 30.0


async def scraped(session: aiohttp.ClientSession, yard: YardProcess) -> dict[str, float]:
    """The samples of /metrics by name and labels; none while the monitor is away."""
    async with session.get(f"{yard.url}/metrics") as response:
        text = await response.text() if response.status == 200 else ""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


async def scraped_until(session: aiohttp.ClientSession, yard: YardProcess, *lines: str) -> dict[str, float]:
    """The first scrape in which every one of these patterns fits a series and its value."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            series = await scraped(session, yard)
            told = [f"{name} {value:g}" for name, value in series.items()]
            if all(any(re.fullmatch(line, one) for one in told) for line in lines):
                return series
            await asyncio.sleep(0.1)


async def test_a_yard_at_work_is_seen_by_prometheus_and_by_a_page_also_after_its_monitor_died(
    tmp_path: Path,
) -> None:
    cards = tmp_path / "cards.toml"
    cards.write_text(CARD)
    async with (
        running_yard(tmp_path / "home", YARD_SIMULATED_DEVICES=str(cards)) as yard,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{yard.url}/ws") as page,
    ):
        await chat(yard.url, "demo")
        served = r'yard_instance_requests_total\{.*model="demo".*\} 1', r"yard_requests_total\{.*\} 1"
        simulated = r'yard_device_info\{.*device="SIM-0".*simulated="true"\} 1'
        await scraped_until(session, yard, *served, simulated)
        seen: dict[str, set[str]] = {}
        async with asyncio.timeout(TIMEOUT_S):
            while not {"activity", "devices", "adapters"} <= seen.keys():
                for bucket, values in json.loads((await page.receive()).data)["data"].items():
                    if values:
                        seen.setdefault(bucket, set()).update(values)
        assert any(name.endswith(".SIM-0") for name in seen["devices"])
        os.kill(yard.service("monitor").pid, signal.SIGKILL)
        # What it counted comes back with it: the events are kept.
        await scraped_until(session, yard, *served, simulated)
