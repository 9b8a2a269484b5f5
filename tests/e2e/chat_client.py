"""Chats over HTTP: whole answers, and streams that can be read in steps and closed."""

import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

HELLO = [{"role": "user", "content": "Hello!"}]


class Stream:
    """An open streaming answer."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.lines: list[str] = []

    async def read_tokens(self, count: int) -> None:
        """Read `count` more pieces of text."""
        async for line in self.response.content:
            self._add(line)
            count -= b'"content":"' in line
            if count <= 0:
                return
        raise AssertionError(f"the stream ended: {self.lines[-3:]}")

    async def read_rest(self) -> list[str]:
        """All data lines, read to the end."""
        async for line in self.response.content:
            self._add(line)
        return self.lines

    async def read_comment(self) -> str:
        """The next comment."""
        async for line in self.response.content:
            self._add(line)
            if line.startswith(b":"):
                return line.decode()[1:].strip()
        raise AssertionError(f"the stream ended: {self.lines[-3:]}")

    def _add(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self.lines.append(line.decode().strip().removeprefix("data:").strip())

    @property
    def error(self) -> dict[str, Any] | None:
        """The error event at the end of the stream, if there is one."""
        last = json.loads(self.lines[-1]) if self.lines and self.lines[-1] != "[DONE]" else {}
        return last.get("error")


@contextlib.asynccontextmanager
async def streaming(url: str, model: str, *, key: str | None = None, **params: Any) -> AsyncIterator[Stream]:
    """A streamed chat; leaving the block closes the connection."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "messages": HELLO, "stream": True, **params}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session,
        session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        yield Stream(response)


async def post(url: str, path: str, data: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one POST."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.post(
            url + path, data=io.BytesIO(data), headers={"Content-Type": "application/json", **headers}
        ) as response,
    ):
        return response.status, await response.json()


async def chat(url: str, model: str, **params: Any) -> tuple[int, dict[str, Any]]:
    """A whole answer."""
    body = {"model": model, "messages": HELLO, **params}
    return await post(url, "/v1/chat/completions", json.dumps(body).encode())
