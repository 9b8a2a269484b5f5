"""HTTP to the engine on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import msgspec

from modelyard.plugins import EngineApi
from schemas.base import Record
from schemas.errors import NotServed
from schemas.models import Mode
from services.supervisor.engines.llama_cpp import LLAMA_API

_SLOTS_POLL_S = 0.01
_SLOTS_TIMEOUT_S = 30.0
_HELLO: tuple[dict[str, str], ...] = ({"role": "user", "content": "hello"},)
_PROBES: dict[Mode, tuple[str, dict[str, object]]] = {
    Mode.CHAT: ("/v1/chat/completions", {"messages": _HELLO, "max_tokens": 1}),
    Mode.COMPLETION: ("/v1/completions", {"prompt": "hello", "max_tokens": 1}),
    Mode.EMBEDDING: ("/v1/embeddings", {"input": "hello"}),
    Mode.RERANK: ("/v1/rerank", {"query": "hello", "documents": ("hello", "there"), "top_n": 1}),
}
"""None for transcriptions: no audio file suits every engine, so their health path has to do."""
_NO_SUCH_PATH = frozenset({404, 405})


class _BusySlot(Record):
    is_processing: bool = False


class _ErrorBody(Record):
    error: msgspec.Raw


class _NotServedResponse:
    """Replaces the response of an engine that does not have the path."""

    status = NotServed.status

    def __init__(self, path: str) -> None:
        self._body = NotServed(f"The engine of this model does not serve {path}.").encode()

    async def read(self) -> bytes:
        return self._body


class Upstream:
    """The HTTP client of one engine; `exited` is set once its process has exited."""

    def __init__(
        self, port: int, api: EngineApi = LLAMA_API, model: str = "", exited: asyncio.Event | None = None
    ) -> None:
        self.api = api
        self.exited = exited or asyncio.Event()
        self._base = f"http://127.0.0.1:{port}"
        self._model = model
        self._received_bytes = 0
        self._open: set[aiohttp.ClientResponse] = set()
        # llama-server closes every connection after its answer; a pooled one would be dead.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    @property
    def received_bytes(self) -> int:
        """Bytes of all answers so far; the beginning of an answer counts as one."""
        return self._received_bytes + sum(response.content.total_bytes for response in self._open)

    @asynccontextmanager
    async def post(
        self, path: str, body: bytes, content_type: str = "application/json", traceparent: str | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request. Leaving the block early closes the connection, which ends the work in the engine."""
        # Callers read only status and body of an answer that is not 200.
        not_served = cast(aiohttp.ClientResponse, _NotServedResponse(path))
        if path in self.api.missing_paths:
            yield not_served
            return
        headers = {"Content-Type": content_type} | ({"traceparent": traceparent} if traceparent else {})
        async with self._session.post(self._base + path, data=body, headers=headers) as response:
            self._received_bytes += 1
            self._open.add(response)
            try:
                unknown = response.status in _NO_SUCH_PATH and not _has_error(await response.read())
                yield not_served if unknown else response
            finally:
                self._open.discard(response)
                self._received_bytes += response.content.total_bytes

    async def is_healthy(self, timeout_s: float) -> bool:
        """Whether its health path answers 200 within `timeout_s`."""
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(self._base + self.api.health_path) as response,
            ):
                return response.status == 200
        except (TimeoutError, aiohttp.ClientError):
            return False

    async def get_text(self, path: str, timeout_s: float) -> str | None:
        """The text at a path; None without an answer in time."""
        if self._session.closed:
            return None
        try:
            async with asyncio.timeout(timeout_s), self._session.get(self._base + path) as response:
                return await response.text() if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, UnicodeDecodeError):
            return None

    async def probe(self, mode: Mode) -> str | None:
        """Send one real request of the mode; what is wrong with the answer, or None."""
        if mode not in _PROBES:
            return None
        path, fields = _PROBES[mode]
        body = msgspec.json.encode({"model": self._model, **fields, **self.api.probe_fields})
        try:
            async with self.post(path, body) as response:
                text = (await response.read()).decode(errors="replace")
        except aiohttp.ClientError as error:
            return f"{path} broke off: {error}"
        return None if response.status == 200 else f"{path} answered {response.status}: {text[:300]}"

    async def wait_for_slots(self, max_busy: int) -> bool:
        """After a cancelled request: wait until the engine has at most `max_busy` busy slots.

        False if it has more after a long time, or does not answer. For an engine without a list of slots
        the closed connection is enough.
        """
        if self.api.slots_path is None:
            return True
        deadline = time.monotonic() + _SLOTS_TIMEOUT_S
        while time.monotonic() < deadline:
            busy = await self._busy_slots(self.api.slots_path)
            if busy is None:
                return False
            if busy <= max_busy:
                return True
            await asyncio.sleep(_SLOTS_POLL_S)
        return False

    async def _busy_slots(self, path: str) -> int | None:
        try:
            async with self._session.get(self._base + path) as response:
                if response.status != 200:
                    return None
                slots = msgspec.json.decode(await response.read(), type=list[_BusySlot])
        except (aiohttp.ClientError, msgspec.DecodeError):
            return None
        return sum(slot.is_processing for slot in slots)


def _has_error(body: bytes) -> bool:
    """Whether it is an error of the engine's own, so that the path exists."""
    try:
        msgspec.json.decode(body, type=_ErrorBody)
    except msgspec.DecodeError:
        return False
    return True
