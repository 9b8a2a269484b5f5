"""The HTTP reply to an inference request: whole, or a stream that begins late and whose errors are events."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from http import HTTPStatus

import msgspec
from aiohttp import web

from modelyard.openai.sse import encode_event
from schemas.errors import ErrorBody, ErrorDetail, YardError, from_error_body
from schemas.frames import AnswerHead
from schemas.requests import Style
from services.gateway.inference.answer import AnswerReceiver
from services.gateway.inference.inference import Inference
from services.gateway.inference.queue import QueuePlace
from services.gateway.inference.request import InferRequest

EVENT_STREAM = "text/event-stream"
COMMENT_INTERVAL_S = 5.0
"""A client that streams gets a comment so often while its request waits."""
ANTHROPIC_PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
"""Paths with errors in Anthropic's shape, whatever part of the yard they come from."""
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ReplyFormat(ABC):
    """How the answer to `request` is written to the clients of one API."""

    stream_type: str
    comments: bool
    """Whether a stream may have comments while the request waits."""

    def __init__(self, request: InferRequest) -> None:
        self.request = request

    @abstractmethod
    def is_stream(self, head: AnswerHead) -> bool:
        """Whether the answer is written as it arrives."""

    @abstractmethod
    def stream(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]: ...

    @abstractmethod
    def whole(self, head: AnswerHead, body: bytes) -> web.Response:
        """The response to a client that gets the answer in one piece."""

    @abstractmethod
    def error(self, error: YardError) -> bytes: ...


class EngineFormat(ReplyFormat):
    """The answer as the engine gives it; errors in the style of its endpoint."""

    stream_type = EVENT_STREAM

    def __init__(self, request: InferRequest) -> None:
        super().__init__(request)
        self.comments = has_comments(request)

    def is_stream(self, head: AnswerHead) -> bool:
        return head.content_type == EVENT_STREAM

    def stream(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return pieces

    def whole(self, head: AnswerHead, body: bytes) -> web.Response:
        if head.status != HTTPStatus.OK and self.request.path in ANTHROPIC_PATHS:
            body = anthropic_detail(msgspec.json.decode(body, type=ErrorBody).error, head.status)
        headers = {"X-Request-Id": self.request.id}
        return web.Response(body=body, status=head.status, content_type=head.content_type, headers=headers)

    def error(self, error: YardError) -> bytes:
        return error_event(self.request.endpoint.style, error)


class HttpReply:
    """One HTTP response. Until its first byte an error is an HTTP status, later an event of the stream."""

    def __init__(self, http_request: web.Request, inference: Inference, reply_format: ReplyFormat) -> None:
        self._http_request = http_request
        self._inference = inference
        self._format = reply_format
        self._begun: web.StreamResponse | None = None

    async def send(self) -> web.StreamResponse:
        try:
            # Errors must pass through `submit`, which takes the request off its engine and records it.
            async with self._inference.submit(self._format.request) as answer:
                answer.on_reader_too_slow = self._abort
                whole = await self._write(answer)
                if whole is not None:
                    return whole
        except YardError as error:
            if self._begun is None:
                raise
            await self._begun.write(self._format.error(error))
        response = await self._begin()
        await response.write_eof()
        return response

    async def _write(self, answer: AnswerReceiver) -> web.Response | None:
        """The response if it is not a stream; a stream is written as it arrives."""
        if self._format.comments:
            await self._write_comments(answer)
        head = await answer.head()
        if not self._format.is_stream(head):
            body = await answer.read_all()
            if self._begun is None:
                return self._format.whole(head, body)
            # The status is 200 since the first comment: the engine's error is an event.
            raise from_error_body(body)
        response = await self._begin()
        async for piece in self._format.stream(answer.body()):
            await response.write(piece)
        return None

    async def _write_comments(self, answer: AnswerReceiver) -> None:
        async for place in places_until_head(self._inference, answer):
            response = await self._begin(place)
            await response.write(comment(place))

    async def _begin(self, place: QueuePlace | None = None) -> web.StreamResponse:
        if self._begun is not None:
            return self._begun
        headers = {
            "X-Request-Id": self._format.request.id,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
        response = web.StreamResponse(headers=headers | _place_headers(place))
        response.content_type = self._format.stream_type
        self._begun = response
        await response.prepare(self._http_request)
        return response

    def _abort(self) -> None:
        if self._http_request.transport is not None:
            self._http_request.transport.abort()


def has_comments(request: InferRequest) -> bool:
    """Whether the answer can be preceded by comments: it is a stream of events."""
    return request.stream and request.endpoint.style is not Style.PLAIN


async def places_until_head(inference: Inference, answer: AnswerReceiver) -> AsyncIterator[QueuePlace | None]:
    """The place of a request at intervals until its answer has a head; None once a runner has taken it."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMMENT_INTERVAL_S):
                await answer.head()
                return
        yield inference.place(answer) if answer.queued else None


def _place_headers(place: QueuePlace | None) -> dict[str, str]:
    if place is None:
        return {}
    return {"X-Queue-Position": str(place.position), "X-Queue-Expected-Wait-S": f"{place.expected_wait_s:g}"}


def comment(place: QueuePlace | None) -> bytes:
    """A place as a comment between server-sent events."""
    if place is None:
        return b": the model reads the prompt\n\n"
    why = f" once the model is there: {place.reason}" if place.reason else ""
    return f": waiting, position {place.position}, about {place.expected_wait_s:g} s{why}\n\n".encode()


def error_event(style: Style, error: YardError) -> bytes:
    """An error in the middle of a stream, as clients of that style read it."""
    detail = error.body().error
    match style:
        case Style.MESSAGES:
            return encode_event(anthropic_error(error), "error")
        case Style.RESPONSES:
            flat = {"type": "error", "code": detail.code, "message": detail.message, "param": detail.param}
            return encode_event(msgspec.json.encode(flat), "error")
        case _:
            return encode_event(error.encode())


def anthropic_error(error: YardError) -> bytes:
    return anthropic_detail(error.body().error, error.status)


def anthropic_detail(detail: ErrorDetail, status: int) -> bytes:
    """An engine's error with that status in Anthropic's shape."""
    kind = _ANTHROPIC_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    fields = {"type": kind, "message": detail.message, "code": detail.code, "param": detail.param}
    return msgspec.json.encode({"type": "error", "error": fields})
