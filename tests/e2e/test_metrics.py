"""Metrics of a yard: simulated cards, a busy instance, and a killed monitor."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import aiohttp

from tests.e2e.chat_client import chat
from tests.e2e.yard_process import YardProcess, running_yard
from tests.support import eventually

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


async def scrape(session: aiohttp.ClientSession, yard: YardProcess) -> dict[str, float]:
    """The samples of /metrics by name and labels; none while the monitor is down."""
    async with session.get(f"{yard.url}/metrics") as response:
        text = await response.text() if response.status == 200 else ""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


async def until_scraped(session: aiohttp.ClientSession, yard: YardProcess, *patterns: str) -> None:
    """Wait for a scrape in which every pattern matches a series with its value."""

    async def matches() -> bool:
        lines = [f"{name} {value:g}" for name, value in (await scrape(session, yard)).items()]
        return all(any(re.fullmatch(pattern, line) for line in lines) for pattern in patterns)

    await eventually(matches, f"samples match {patterns}", timeout_s=TIMEOUT_S, every_s=0.1)


async def test_prometheus_and_the_page_get_samples_also_after_a_killed_monitor(
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
        await until_scraped(session, yard, *served, simulated)
        keys: dict[str, set[str]] = {}
        async with asyncio.timeout(TIMEOUT_S):
            while not {"activity", "devices", "adapters"} <= keys.keys():
                for bucket, values in json.loads((await page.receive()).data)["data"].items():
                    if values:
                        keys.setdefault(bucket, set()).update(values)
        assert any(name.endswith(".SIM-0") for name in keys["devices"])
        os.kill(yard.service("monitor").pid, signal.SIGKILL)
        # Its counters are restored from the stored events.
        await until_scraped(session, yard, *served, simulated)
