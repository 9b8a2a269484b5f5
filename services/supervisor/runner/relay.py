"""One request between the queue and the engine: forwarded, relayed as it comes, metered."""

from collections.abc import AsyncIterator

import aiohttp
import msgspec

from schemas.errors import BadRequest, EngineFailed, ErrorDetail
from schemas.record import Record
from schemas.requests import AnswerHead
from services.supervisor.runner.body import UpstreamBody, upstream_body
from services.supervisor.runner.completion import Completion
from services.supervisor.runner.frames import Frames
from services.supervisor.runner.metering import Meter
from services.supervisor.runner.sse import EventSplitter, EventTooLarge, event_data
from services.supervisor.runner.upstream import Upstream

_JSON = "application/json"
_EVENTS = "text/event-stream"


class EngineGone(Exception):
    """The engine broke off; `EngineFailed` unless another attempt can be made."""


class Relayed(Record):
    """How it went: the HTTP status, and the error if the engine sent one."""

    status: int
    error: ErrorDetail | None = None


class Relay:
    """Relays one answer. Every byte goes out as soon as the engine sent it."""

    def __init__(self, upstream: Upstream, frames: Frames, instance: str) -> None:
        self.meter = Meter()
        self._upstream = upstream
        self._frames = frames
        self._instance = instance

    async def run(self, path: str, body: bytes, *, stream: bool) -> Relayed:
        """Ask the engine and send the frames but for the last; EngineGone if it breaks off."""
        try:
            asked = upstream_body(body)
        except msgspec.DecodeError as error:
            return await self._refused(BadRequest(f"The body is not what {path} takes: {error}."))
        try:
            async with self._upstream.post(path, asked.data) as response:
                if response.status != 200:
                    return await self._engine_refused(response)
                relay = self._relay_stream if stream else self._relay_whole
                return await relay(response, asked)
        except (aiohttp.ClientError, ConnectionError, EventTooLarge, msgspec.DecodeError) as error:
            raise EngineGone(str(error)) from error

    async def _relay_stream(self, response: aiohttp.ClientResponse, asked: UpstreamBody) -> Relayed:
        # The head goes with the first event: until then another runner may take over unseen.
        head = AnswerHead(status=200, content_type=_EVENTS, instance=self._instance)
        done, failure = False, None
        async for events in _events(response):
            kept = []
            for event in events:
                data = event_data(event)
                seen = self.meter.see(data) if data is not None else None
                if seen is None or asked.wants_usage or not seen.usage_only:
                    kept.append(event)
                if seen is not None and data is not None:
                    done = done or seen.done
                    failure = engine_error(data, 500) if seen.error else failure
            if kept:
                if self._frames.count == 0:
                    await self._frames.head(head)
                await self._frames.data(b"".join(kept))
        if not done and failure is None:
            raise EngineGone("the stream ended before its end")
        return Relayed(status=200, error=failure)

    async def _relay_whole(self, response: aiohttp.ClientResponse, _asked: UpstreamBody) -> Relayed:
        completion, done = Completion(), False
        async for events in _events(response):
            for event in events:
                if (data := event_data(event)) is None:
                    continue
                seen = self.meter.see(data)
                if seen.error:
                    return await self._answered_error(500, engine_error(data, 500))
                if seen.done:
                    done = True
                else:
                    completion.add(data)
        if not done:
            raise EngineGone("the answer ended before its end")
        await self._frames.head(AnswerHead(status=200, content_type=_JSON, instance=self._instance))
        await self._frames.data(completion.encode())
        return Relayed(status=200)

    async def _engine_refused(self, response: aiohttp.ClientResponse) -> Relayed:
        data = await response.read()
        return await self._answered_error(response.status, engine_error(data, response.status))

    async def _refused(self, error: BadRequest) -> Relayed:
        return await self._answered_error(error.status, error.body().error)

    async def _answered_error(self, status: int, error: ErrorDetail) -> Relayed:
        await self._frames.head(AnswerHead(status=status, content_type=_JSON, instance=self._instance))
        await self._frames.data(msgspec.json.encode({"error": error}))
        return Relayed(status=status, error=error)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    splitter = EventSplitter()
    async for data in response.content.iter_any():
        if events := splitter.feed(data):
            yield events


class _EngineErrorDetail(Record):
    message: str = ""
    type: str | None = None
    param: str | None = None
    code: int | str | None = None


class _EngineErrorBody(Record):
    error: _EngineErrorDetail


def engine_error(data: bytes, status: int) -> ErrorDetail:
    """An engine's own error in the one shape: its words, its type as the code."""
    try:
        given = msgspec.json.decode(data, type=_EngineErrorBody).error
    except msgspec.DecodeError:
        text = data[:300].decode(errors="replace").strip() or "nothing"
        return EngineFailed(f"The engine answered {status}: {text}.").body().error
    kind = given.type or ("invalid_request_error" if status < 500 else "server_error")
    code = given.code if isinstance(given.code, str) else kind
    return ErrorDetail(
        message=given.message or f"The engine answered {status}.", type=kind, param=given.param, code=code
    )
