"""Talking HTTP to the engine on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from schemas.models import Mode
from schemas.record import Record

_IDLE_POLL_S = 0.01
_IDLE_PATIENCE_S = 30.0
_PROBES: dict[Mode, tuple[str, bytes]] = {
    Mode.CHAT: (
        "/v1/chat/completions",
        b'{"messages":[{"role":"user","content":"hello"}],"max_tokens":1,"cache_prompt":false}',
    ),
    Mode.COMPLETION: ("/v1/completions", b'{"prompt":"hello","max_tokens":1,"cache_prompt":false}'),
    Mode.EMBEDDING: ("/v1/embeddings", b'{"input":"hello"}'),
    Mode.RERANK: ("/v1/rerank", b'{"query":"hello","documents":["hello","there"],"top_n":1}'),
}


class _Slot(Record):
    is_processing: bool = False


class Upstream:
    """The engine's HTTP side."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        # llama-server closes every connection after its answer; a pooled one would be found dead.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def post(
        self,
        path: str,
        body: bytes,
        content_type: str = "application/json",
        traceparent: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request. Leaving the block early closes the connection, which ends the work in the engine."""
        headers = {"Content-Type": content_type} | ({"traceparent": traceparent} if traceparent else {})
        async with self._session.post(self._base + path, data=body, headers=headers) as response:
            yield response

    async def is_healthy(self) -> bool:
        """Whether `/health` says ready; `loading` is not ready."""
        try:
            async with self._session.get(self._base + "/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def probe(self, mode: Mode) -> str | None:
        """One real request of the mode; what was wrong with the answer, or None."""
        path, body = _PROBES[mode]
        try:
            async with self.post(path, body) as response:
                text = await response.text()
        except aiohttp.ClientError as error:
            return f"{path} broke off: {error}"
        return None if response.status == 200 else f"{path} answered {response.status}: {text[:300]}"

    async def settle(self, ours: int) -> bool:
        """After a cancelled request: wait until the engine works on no more than `ours` requests.

        False if it still did after a long while, or cannot be asked.
        """
        deadline = time.monotonic() + _IDLE_PATIENCE_S
        while time.monotonic() < deadline:
            busy = await self._busy_slots()
            if busy is None:
                return False
            if busy <= ours:
                return True
            await asyncio.sleep(_IDLE_POLL_S)
        return False

    async def _busy_slots(self) -> int | None:
        try:
            async with self._session.get(self._base + "/slots") as response:
                if response.status != 200:
                    return None
                slots = msgspec.json.decode(await response.read(), type=list[_Slot])
        except (aiohttp.ClientError, msgspec.DecodeError):
            return None
        return sum(slot.is_processing for slot in slots)
