"""Finding a model on the hub with the dashboard, in a real browser on a real yard."""

from pathlib import Path

import pytest

from modelyard.files.tinymodels import write_reciter
from tests.e2e.browser import CHROMIUM, browsing
from tests.e2e.chat_client import chat
from tests.e2e.yard_process import running_yard
from tests.hub import About, Hub

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
REPO = "tiny/found-GGUF"
HUB = "document.querySelector('#hub').innerText"


async def test_a_user_searches_chooses_a_fitting_quant_and_pulls_it(tmp_path: Path) -> None:
    write_reciter(tmp_path / "m.gguf", "Found and pulled.")
    async with Hub() as hub:
        files = {f"m-{quant}.gguf": tmp_path / "m.gguf" for quant in ("Q4_K_M", "Q8_0")}
        hub.add_repo(REPO, files, about=About(task="text-generation", downloads=1234, likes=5))
        async with (
            running_yard(tmp_path / "home", HF_ENDPOINT=hub.url) as yard,
            browsing(tmp_path / "profile", f"{yard.url}/") as page,
        ):
            await page.until_text("Live")
            await page.type("#hub input[name=words]", "found")
            await page.click("Search")
            await page.until(f"{HUB}.includes({REPO!r}) && {HUB}.includes('1234 downloads')")
            await page.click("Choose")
            await page.until(f"{HUB}.includes('Q8_0') && {HUB}.includes('on the CPU')")
            pull = f"[data-action=hub-pull][data-reference={f'{REPO}:Q8_0'!r}]"
            await page.evaluate(f"document.querySelector({pull!r}).click()")
            await page.until(f"document.querySelector('#downloads').innerText.includes('{REPO}:Q8_0')")
            await page.until(f"document.querySelector('#models').innerText.includes('{REPO}:Q8_0')")
            assert page.errors == []
            assert (await chat(yard.url, f"{REPO}:Q8_0"))[0] == 200
