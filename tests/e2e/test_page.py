"""The dashboard in a real browser, on a real yard."""

from pathlib import Path

import pytest

from modelyard.files.tinymodels import DEMO_SENTENCE
from tests.e2e.browser import CHROMIUM, browsing
from tests.e2e.yard_process import YardProcess, running_yard

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.asyncio(loop_scope="module"),
]
BADGE = "document.querySelector('[data-key=demo]').innerText"


async def test_a_user_starts_a_model_chats_reads_its_log_and_stops_it(
    yard: YardProcess, tmp_path: Path
) -> None:
    async with browsing(tmp_path / "profile", f"{yard.url}/") as page:
        await page.until_text("No model loaded")
        await page.until_text("Live")
        await page.click("Start")
        await page.until(f"{BADGE}.includes('Ready')")
        await page.type("textarea[name=prompt]", "Hello!")
        await page.click("Send")
        await page.until_text(DEMO_SENTENCE)
        await page.click("Log")
        await page.until_text("listening on http://127.0.0.1")
        await page.until("document.body.innerText.includes('1 request')")
        await page.click("Stop")
        await page.until(f"{BADGE}.includes('Start') && !{BADGE}.includes('Ready')")
        assert page.errors == []


async def test_a_failed_pull_shows_its_reason(yard: YardProcess, tmp_path: Path) -> None:
    async with browsing(tmp_path / "profile", f"{yard.url}/") as page:
        await page.type("textarea[name=reference]", "org/nowhere")
        await page.click("Pull")
        await page.until_text("org/nowhere")
        await page.until_text("Failed")
        await page.until_text("The hub at 127.0.0.1 does not answer")
        assert page.errors == []


async def test_the_page_reconnects_after_the_gateway_was_killed(yard: YardProcess, tmp_path: Path) -> None:
    async with browsing(tmp_path / "profile", f"{yard.url}/") as page:
        await page.until_text("Live")
        yard.service("gateway").kill()
        await page.until_text("Disconnected")
        await page.until_text("Live")
        await page.click("Start")
        await page.until(f"{BADGE}.includes('Ready')")


async def test_the_page_asks_for_a_required_key(tmp_path: Path) -> None:
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True)
    (keys / "api-keys").write_text("sesame-sesame\n")
    async with (
        running_yard(tmp_path / "home") as yard,
        browsing(tmp_path / "profile", f"{yard.url}/") as page,
    ):
        await page.type("input[name=key]", "wrong")
        await page.click("Open")
        await page.until_text("That key was not accepted")
        await page.evaluate("document.querySelector('input[name=key]').value = ''")
        await page.type("input[name=key]", "sesame-sesame")
        await page.click("Open")
        await page.until_text("No model loaded")
        await page.click("Start")
        await page.until(f"{BADGE}.includes('Ready')")
