"""Headless Chromium over its DevTools protocol: open a page, ask it, act on it."""

import asyncio
import contextlib
import itertools
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1280,1400",
)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        """Uncaught exceptions and errors on the page's console."""
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Take what the browser sends, until it is gone."""
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                if not (answer := self._answers.pop(content["id"])).done():
                    answer.set_result(content)
            elif content["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(content["params"]["exceptionDetails"]))
            elif content["method"] == "Log.entryAdded" and content["params"]["entry"]["level"] == "error":
                self.complaints.append(content["params"]["entry"]["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(self._answers[number], 20)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until the expression is true; on failure show what the page says."""
        try:
            async with asyncio.timeout(timeout_s):
                # While the page is still being built, what the expression asks for may not be there.
                asked = f"(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()"
                while not await self.evaluate(asked):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"{expression} did not come true; the page says:\n{text}") from None

    async def until_text(self, text: str) -> None:
        await self.until(f"document.body.innerText.includes({text!r})")

    async def click(self, words: str) -> None:
        """Press the first button with these words."""
        button = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {words!r})"
        await self.until(f"!!{button}")
        await self.evaluate(f"{button}.click()")

    async def type(self, selector: str, text: str) -> None:
        """Put text into a field, as typing does."""
        field = f"document.querySelector({selector!r})"
        await self.until(f"!!{field}")
        await self.evaluate(f"{field}.focus()")
        await self.call("Input.insertText", text=text)


@contextlib.asynccontextmanager
async def browsing(folder: Path, url: str) -> AsyncIterator[Page]:
    """A browser with `url` open; ended with the block."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *_FLAGS,
        f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with aiohttp.ClientSession() as session:
            target = await _target(session, folder)
            async with session.ws_connect(target, max_msg_size=0) as socket:
                page = Page(socket)
                reading = asyncio.create_task(page.read())
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                await page.call("Page.navigate", url=url)
                yield page
                reading.cancel()
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def _target(session: aiohttp.ClientSession, folder: Path) -> str:
    """Where the first tab listens; the browser writes its port into a file."""
    file = folder / "DevToolsActivePort"
    async with asyncio.timeout(30):
        while not file.exists() or not file.read_text().strip():
            await asyncio.sleep(0.05)
        port = file.read_text().split()[0]
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json") as response:
                tabs = [tab for tab in await response.json() if tab["type"] == "page"]
            if tabs:
                target: str = tabs[0]["webSocketDebuggerUrl"]
                return target
            await asyncio.sleep(0.05)
