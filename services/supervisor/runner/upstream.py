"""Talking HTTP to the engine on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import msgspec

from schemas.base import Record
from schemas.errors import NotServed
from schemas.models import Mode
from services.supervisor.engines.base import Api
from services.supervisor.engines.llama_cpp import LLAMA_API

_IDLE_POLL_S = 0.01
_IDLE_TIMEOUT_S = 30.0
_HELLO: tuple[dict[str, str], ...] = ({"role": "user", "content": "hello"},)
_PROBES: dict[Mode, tuple[str, dict[str, object]]] = {
    Mode.CHAT: ("/v1/chat/completions", {"messages": _HELLO, "max_tokens": 1}),
    Mode.COMPLETION: ("/v1/completions", {"prompt": "hello", "max_tokens": 1}),
    Mode.EMBEDDING: ("/v1/embeddings", {"input": "hello"}),
    Mode.RERANK: ("/v1/rerank", {"query": "hello", "documents": ("hello", "there"), "top_n": 1}),
}
"""None for transcriptions: which sounds an engine takes, and how short, nobody can say. Health has to do."""
_NO_SUCH_PATH = frozenset({404, 405})


class _Slot(Record):
    is_processing: bool = False


class _HasError(Record):
    error: msgspec.Raw


class _Refused:
    """In the place of an engine's answer: it does not have the path."""

    status = NotServed.status

    def __init__(self, path: str) -> None:
        self._body = NotServed(f"The engine of this model does not serve {path}.").encode()

    async def read(self) -> bytes:
        return self._body


class Upstream:
    """The engine's HTTP side."""

    def __init__(self, port: int, api: Api = LLAMA_API, model: str = "") -> None:
        self._base = f"http://127.0.0.1:{port}"
        self.api = api
        self._model = model
        self._heard_bytes = 0
        self._open: set[aiohttp.ClientResponse] = set()
        # llama-server closes every connection after its answer; a pooled one would be found dead.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    @property
    def heard_bytes(self) -> int:
        """What has come on all answers so far; that one began counts too."""
        return self._heard_bytes + sum(response.content.total_bytes for response in self._open)

    @asynccontextmanager
    async def post(
        self,
        path: str,
        body: bytes,
        content_type: str = "application/json",
        traceparent: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request. Leaving the block early closes the connection, which ends the work in the engine."""
        # Of an answer that is not 200, those who ask look at the status and the body alone.
        refused = cast(aiohttp.ClientResponse, _Refused(path))
        if path in self.api.lacks:
            yield refused
            return
        headers = {"Content-Type": content_type} | ({"traceparent": traceparent} if traceparent else {})
        async with self._session.post(self._base + path, data=body, headers=headers) as response:
            self._heard_bytes += 1
            self._open.add(response)
            try:
                unknown = response.status in _NO_SUCH_PATH and not _has_error(await response.read())
                yield refused if unknown else response
            finally:
                self._open.discard(response)
                self._heard_bytes += response.content.total_bytes

    async def is_healthy(self, timeout_s: float) -> bool:
        """Whether its health path says ready within `timeout_s`; `loading` is not ready."""
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(self._base + self.api.health) as response,
            ):
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError):
            return False

    async def text(self, path: str, timeout_s: float) -> str | None:
        """What one of its paths tells; None if it does not in time."""
        if self._session.closed:
            return None
        try:
            async with asyncio.timeout(timeout_s), self._session.get(self._base + path) as response:
                return await response.text() if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, UnicodeDecodeError):
            return None

    async def probe(self, mode: Mode) -> str | None:
        """One real request of the mode; what was wrong with the answer, or None."""
        if mode not in _PROBES:
            return None
        path, fields = _PROBES[mode]
        body = msgspec.json.encode({"model": self._model, **fields, **self.api.probe})
        try:
            async with self.post(path, body) as response:
                text = (await response.read()).decode(errors="replace")
        except aiohttp.ClientError as error:
            return f"{path} broke off: {error}"
        return None if response.status == 200 else f"{path} answered {response.status}: {text[:300]}"

    async def settle(self, ours: int) -> bool:
        """After a cancelled request: wait until the engine works on no more than `ours` requests.

        False if it still did after a long while, or does not answer. An engine that cannot be asked
        was told by the closed connection, and there is nothing more to wait for.
        """
        if self.api.slots is None:
            return True
        deadline = time.monotonic() + _IDLE_TIMEOUT_S
        while time.monotonic() < deadline:
            busy = await self._busy_slots(self.api.slots)
            if busy is None:
                return False
            if busy <= ours:
                return True
            await asyncio.sleep(_IDLE_POLL_S)
        return False

    async def _busy_slots(self, path: str) -> int | None:
        try:
            async with self._session.get(self._base + path) as response:
                if response.status != 200:
                    return None
                slots = msgspec.json.decode(await response.read(), type=list[_Slot])
        except (aiohttp.ClientError, msgspec.DecodeError):
            return None
        return sum(slot.is_processing for slot in slots)


def _has_error(body: bytes) -> bool:
    """Whether the engine says in an error of its own what it lacks: not the path then."""
    try:
        msgspec.json.decode(body, type=_HasError)
    except msgspec.DecodeError:
        return False
    return True
