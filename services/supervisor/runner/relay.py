"""One request between the queue and the engine: its answer is relayed in numbered frames, and metered."""

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable

import aiohttp
import msgspec
import nats.errors

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.parts import read_parts
from modelyard.openai.errors import engine_error
from modelyard.openai.sse import EventParser, EventTooLarge, SseEvent
from schemas import streams, subjects
from schemas.base import Record
from schemas.errors import BadRequest, EngineFailed, ErrorDetail, InternalError, YardError
from schemas.frames import AnswerEnd, AnswerHead, Frame, Resend, encode_frame
from schemas.models import ParameterPolicy
from schemas.requests import InferHeaders
from schemas.subjects import ANSWER
from services.supervisor.dialects import dialect_of
from services.supervisor.dialects.base import Dialect, Plain
from services.supervisor.runner.upstream import Upstream

log = logs.get(__name__)

FRAME_BYTES = 512 * 1024
"""Larger pieces are split, so that no frame comes near the broker's limit."""
RETAINED_BYTES = 8 * 1024 * 1024
"""The part of one answer that can be resent."""
EXIT_NOTICE_S = 0.5
"""Within this time a broken connection turns out to be the exit of the engine, or not."""
_JSON = "application/json"
_EVENTS = "text/event-stream"


class FrameSender:
    """Sends the frames of one attempt at one request."""

    def __init__(self, bus: Bus, headers: InferHeaders, delivery: int) -> None:
        self.started_at: float | None = None
        """When the first bytes were sent, in unix seconds."""
        self.delivery = delivery
        self.count = 0
        """Frames sent so far."""
        self._bus = bus
        self._headers = headers
        self._subject = ANSWER(gateway=headers.reply, request=headers.request)
        self._head: AnswerHead | None = None
        self._retained: collections.deque[tuple[int, bytes]] = collections.deque()
        self._retained_bytes = 0

    def set_head(self, head: AnswerHead) -> None:
        """Status and type; they are sent with the first bytes."""
        self._head = head

    async def send(self, data: bytes, end: AnswerEnd | None = None) -> None:
        """Send bytes unchanged; with `end`, they are the last."""
        self.started_at = self.started_at or time.time()
        last = max(len(data) - 1, 0) // FRAME_BYTES * FRAME_BYTES
        for start in range(0, last + 1, FRAME_BYTES):
            await self._send(data[start : start + FRAME_BYTES], end if start == last else None)

    async def send_end(self, end: AnswerEnd) -> None:
        await self._send(b"", end)

    async def _send(self, data: bytes, end: AnswerEnd | None) -> None:
        frame = Frame(
            attempt=self._headers.attempt,
            delivery=self.delivery,
            number=self.count,
            head=self._head if self.count == 0 else None,
            end=end,
        )
        message = encode_frame(frame, data)
        self.count += 1
        self._retained.append((frame.number, message))
        self._retained_bytes += len(message)
        while self._retained_bytes > RETAINED_BYTES and len(self._retained) > 1:
            self._retained_bytes -= len(self._retained.popleft()[1])
        await self._publish(message)

    async def resend(self, resend: Resend) -> None:
        """Send the retained frames that the gateway misses."""
        if resend.attempt != self._headers.attempt or resend.delivery not in (0, self.delivery):
            return
        for number, message in tuple(self._retained):
            if number >= resend.number:
                await self._publish(message)

    async def _publish(self, message: bytes) -> None:
        # The gateway requests the frames that were lost while the broker was away.
        with contextlib.suppress(nats.errors.Error):
            await self._bus.nc.publish(self._subject, message)


class EngineDisconnected(Exception):
    """The engine closed the connection before the end of its answer."""


class RelayResult(Record):
    """The HTTP status, and the error if there was one."""

    status: int
    error: ErrorDetail | None = None


class Relay:
    """Relays one answer. Every byte is sent as soon as it arrives."""

    def __init__(
        self,
        upstream: Upstream,
        frames: FrameSender,
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

    async def run(self, body: Awaitable[bytes]) -> RelayResult | None:
        """Send all frames of the answer, or of an error; None if another runner may answer or continue."""
        headers = self._headers
        try:
            prepared = self._prepare(await body)
            async with self._upstream.post(
                headers.path, prepared, headers.content_type, self.traceparent
            ) as response:
                if response.status != 200:
                    detail = engine_error(await response.read(), response.status)
                    return await self._send_error(response.status, detail)
                if isinstance(self.dialect, Plain):
                    return await self._relay_plain(response, self.dialect)
                if headers.stream:
                    return await self._relay_stream(response)
                return await self._relay_whole(response)
        except BadRequest as error:
            return await self._send_error(error.status, error.body().error)
        except (
            EngineDisconnected,
            aiohttp.ClientError,
            ConnectionError,
            EventTooLarge,
            msgspec.DecodeError,
        ) as error:
            await self._offer_retry(error)
            return None
        except EngineFailed as error:
            return await self.fail(error)
        except Exception:
            # Without a last frame the client would wait for ever.
            log.exception("relay_failed", request=headers.request)
            return await self.fail(
                InternalError("The answer of the engine could not be passed on; the runner's log has it.")
            )

    async def fail(self, error: YardError) -> RelayResult:
        """End the answer with an error."""
        detail = error.body().error
        await self._frames.send_end(AnswerEnd(error=detail))
        return RelayResult(status=error.status, error=detail)

    def _prepare(self, body: bytes) -> bytes:
        try:
            return self.dialect.request_body(body, self._policy)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequest(f"The body is not what {self._headers.path} takes: {error}.") from error

    async def _offer_retry(self, error: Exception) -> None:
        """Leave the decision about a retry to the gateway, which knows what the client has received."""
        log.warning("engine_disconnected", request=self._headers.request, error=str(error))
        failed = EngineFailed("The engine broke off while it answered; please try again.")
        # The exit of the engine has to be noticed first: a retry must not come back to it.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._upstream.exited.wait(), EXIT_NOTICE_S)
        await self._frames.send_end(AnswerEnd(error=failed.body().error, may_retry=True))

    async def _relay_stream(self, response: aiohttp.ClientResponse) -> RelayResult:
        # The head is sent with the first event: before that another runner may take over unnoticed.
        self._set_head(200, _EVENTS)
        dialect = self.dialect
        async for events in _events(response):
            shown = b"".join([dialect.relay(event) for event in events])
            if dialect.done:
                await self._frames.send(shown, AnswerEnd())
                return RelayResult(status=200, error=dialect.error)
            if shown:
                await self._frames.send(shown)
        if dialect.error is None:
            raise EngineDisconnected("the stream ended before its end")
        await self._frames.send_end(AnswerEnd())
        return RelayResult(status=200, error=dialect.error)

    async def _relay_whole(self, response: aiohttp.ClientResponse) -> RelayResult:
        dialect = self.dialect
        async for events in _events(response):
            for event in events:
                dialect.collect(event)
            if dialect.done or dialect.error:
                break
        if dialect.error is not None:
            return await self._send_error(500, dialect.error)
        if not dialect.done:
            raise EngineDisconnected("the answer ended before its end")
        return await self._send_body(200, _JSON, dialect.whole())

    async def _relay_plain(self, response: aiohttp.ClientResponse, dialect: Plain) -> RelayResult:
        body = await response.read()
        dialect.count(body)
        return await self._send_body(200, response.content_type, body)

    async def _send_error(self, status: int, error: ErrorDetail) -> RelayResult:
        await self._send_body(status, _JSON, msgspec.json.encode({"error": error}))
        return RelayResult(status=status, error=error)

    async def _send_body(self, status: int, content_type: str, body: bytes) -> RelayResult:
        self._set_head(status, content_type)
        await self._frames.send(body, AnswerEnd())
        return RelayResult(status=status)

    def _set_head(self, status: int, content_type: str) -> None:
        self._frames.set_head(AnswerHead(status=status, content_type=content_type, instance=self._instance))


async def fetch_body(bus: Bus, request: str, parts: int) -> bytes:
    """A body that was too large for its message, from its parts; EngineFailed if one is missing."""
    try:
        return await read_parts(bus, streams.BODIES, subjects.BODY, parts, request=request)
    except (TimeoutError, nats.errors.Error) as error:
        raise EngineFailed(f"The body of the request could not be fetched: {error}.") from error


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[list[SseEvent]]:
    parser = EventParser()
    async for data in response.content.iter_any():
        if events := parser.feed(data):
            yield events
