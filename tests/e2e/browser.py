"""Headless Chromium over its DevTools protocol: open a page, evaluate expressions, send input."""

import asyncio
import contextlib
import itertools
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support import eventually

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
        self.errors: list[str] = []
        """Uncaught exceptions and errors on the page's console."""
        self._socket = socket
        self._ids = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Receive messages until the browser closes the connection."""
        async for message in self._socket:
            content = message.json()
            if "id" in content:
                if not (reply := self._replies.pop(content["id"])).done():
                    reply.set_result(content)
            elif content["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(content["params"]["exceptionDetails"]))
            elif content["method"] == "Log.entryAdded" and content["params"]["entry"]["level"] == "error":
                self.errors.append(content["params"]["entry"]["text"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._replies[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        reply = await asyncio.wait_for(self._replies[number], 20)
        assert "error" not in reply, reply
        result: dict[str, Any] = reply["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 20.0) -> None:
        """Wait until the expression is true; a failure shows the text of the page."""
        # The elements of the expression may not exist yet.
        condition = f"(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()"
        try:
            await eventually(lambda: self.evaluate(condition), expression, timeout_s=timeout_s, every_s=0.05)
        except AssertionError as error:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}; the text of the page:\n{text}") from None

    async def until_text(self, text: str) -> None:
        await self.until(f"document.body.innerText.includes({text!r})")

    async def click(self, label: str) -> None:
        """Press the first button with this label."""
        button = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {label!r})"
        await self.until(f"!!{button}")
        await self.evaluate(f"{button}.click()")

    async def type(self, selector: str, text: str) -> None:
        """Type text into a field."""
        field = f"document.querySelector({selector!r})"
        await self.until(f"!!{field}")
        await self.evaluate(f"{field}.focus()")
        await self.call("Input.insertText", text=text)


@contextlib.asynccontextmanager
async def browsing(folder: Path, url: str) -> AsyncIterator[Page]:
    """A browser with `url` open; it is terminated at the end of the block."""
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
    """The debugger URL of the first tab; the browser writes its port to a file."""
    file = folder / "DevToolsActivePort"
    ports = await eventually(
        lambda: file.exists() and file.read_text().split(), "the browser writes its port", timeout_s=30
    )

    async def tabs() -> list[str]:
        async with session.get(f"http://127.0.0.1:{ports[0]}/json") as response:
            return [tab["webSocketDebuggerUrl"] for tab in await response.json() if tab["type"] == "page"]

    return (await eventually(tabs, "the browser has a tab", timeout_s=30))[0]
