"""One request between the queue and the engine: forwarded, relayed as it comes, metered."""

from collections.abc import AsyncIterator

import aiohttp
import msgspec

from schemas.base import Record
from schemas.errors import BadRequest, ErrorDetail
from schemas.frames import AnswerEnd, AnswerHead
from schemas.models import ParameterPolicy
from schemas.requests import InferHeaders
from services.supervisor.runner.dialects import dialect_of
from services.supervisor.runner.dialects.base import Dialect, engine_error
from services.supervisor.runner.dialects.plain import Plain
from services.supervisor.runner.dialects.sse import EventSplitter, EventTooLarge
from services.supervisor.runner.frames import Frames
from services.supervisor.runner.upstream import Upstream

_JSON = "application/json"
_EVENTS = "text/event-stream"


class EngineGone(Exception):
    """The engine broke off in the middle."""


class Relayed(Record):
    """How it went: the HTTP status, and the error if the engine sent one."""

    status: int
    error: ErrorDetail | None = None


class Relay:
    """Relays one answer. Every byte goes out as soon as the engine sent it."""

    def __init__(
        self,
        upstream: Upstream,
        frames: Frames,
        instance: str,
        headers: InferHeaders,
        policy: ParameterPolicy,
    ) -> None:
        self.dialect: Dialect = dialect_of(headers)
        self.traceparent: str | None = None
        self._upstream = upstream
        self._frames = frames
        self._instance = instance
        self._headers = headers
        self._policy = policy

    async def run(self, body: bytes) -> Relayed:
        """Ask the engine and send every frame; EngineGone, with the last frame not sent, if it breaks off."""
        path = self._headers.path
        try:
            asked = self.dialect.ask(body, self._policy)
        except (msgspec.DecodeError, RecursionError) as error:
            refused = BadRequest(f"The body is not what {path} takes: {error}.")
            return await self._answer_error(refused.status, refused.body().error)
        try:
            async with self._upstream.post(
                path, asked, self._headers.content_type, self.traceparent
            ) as response:
                if response.status != 200:
                    detail = engine_error(await response.read(), response.status)
                    return await self._answer_error(response.status, detail)
                if isinstance(self.dialect, Plain):
                    return await self._relay_plain(response, self.dialect)
                if self._headers.stream:
                    return await self._relay_stream(response)
                return await self._relay_whole(response)
        except (aiohttp.ClientError, ConnectionError, EventTooLarge, msgspec.DecodeError) as error:
            raise EngineGone(str(error)) from error

    async def _relay_stream(self, response: aiohttp.ClientResponse) -> Relayed:
        # The head goes with the first event: until then another runner may take over unseen.
        self._head(200, _EVENTS)
        dialect = self.dialect
        async for events in _events(response):
            shown = b"".join([dialect.see(event) for event in events])
            if dialect.done:
                await self._frames.data(shown, AnswerEnd())
                return Relayed(status=200, error=dialect.error)
            if shown:
                await self._frames.data(shown)
        if dialect.error is None:
            raise EngineGone("the stream ended before its end")
        await self._frames.end(AnswerEnd())
        return Relayed(status=200, error=dialect.error)

    async def _relay_whole(self, response: aiohttp.ClientResponse) -> Relayed:
        dialect = self.dialect
        async for events in _events(response):
            for event in events:
                dialect.keep(event)
            if dialect.done or dialect.error:
                break
        if dialect.error is not None:
            return await self._answer_error(500, dialect.error)
        if not dialect.done:
            raise EngineGone("the answer ended before its end")
        return await self._answer(200, _JSON, dialect.whole())

    async def _relay_plain(self, response: aiohttp.ClientResponse, dialect: Plain) -> Relayed:
        body = await response.read()
        dialect.count(body)
        return await self._answer(200, response.content_type, body)

    async def _answer_error(self, status: int, error: ErrorDetail) -> Relayed:
        await self._answer(status, _JSON, msgspec.json.encode({"error": error}))
        return Relayed(status=status, error=error)

    async def _answer(self, status: int, content_type: str, body: bytes) -> Relayed:
        self._head(status, content_type)
        await self._frames.data(body, AnswerEnd())
        return Relayed(status=status)

    def _head(self, status: int, content_type: str) -> None:
        self._frames.head(AnswerHead(status=status, content_type=content_type, instance=self._instance))


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    splitter = EventSplitter()
    async for data in response.content.iter_any():
        if events := splitter.feed(data):
            yield events
