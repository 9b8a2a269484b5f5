"""An answer over HTTP: whole, or as server-sent events, with a word now and then while it waits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from schemas.endpoints import Style
from schemas.errors import YardError, from_error_body
from schemas.frames import AnswerHead
from services.gateway.inference.answer import Answer
from services.gateway.inference.ask import Ask
from services.gateway.inference.inference import Inference
from services.gateway.inference.waiting import Place

EVENTS = "text/event-stream"
SAY_EVERY_S = 5.0
"""A client that streams hears so often that it waits."""


async def respond(request: web.Request, inference: Inference, ask: Ask) -> web.StreamResponse:
    """Ask, and answer as the engine does. An error before the first byte is an HTTP error."""
    return await _Reply(request, inference, ask).send()


class _Reply:
    """One HTTP response; it has begun once a byte of it is on its way."""

    def __init__(self, request: web.Request, inference: Inference, ask: Ask) -> None:
        self._request = request
        self._inference = inference
        self._ask = ask
        self._begun: web.StreamResponse | None = None

    async def send(self) -> web.StreamResponse:
        try:
            async with self._inference.ask(self._ask) as answer:
                whole = await self._answer(answer)
                if whole is not None:
                    return whole
        except YardError as error:
            if self._begun is None:
                raise
            await self._begun.write(error_event(self._ask.endpoint.style, error))
        response = await self._begin()
        await response.write_eof()
        return response

    async def _answer(self, answer: Answer) -> web.Response | None:
        """The response if it is not a stream; a stream is written as it comes."""
        await self._say_that_it_waits(answer)
        head = await answer.head()
        if head.content_type != EVENTS:
            body = b"".join([piece async for piece in answer.body()])
            if self._begun is None:
                return _whole(head, body, self._ask.request)
            # We said 200 when it began to wait; what the engine says now is an event.
            raise from_error_body(body)
        response = await self._begin()
        async for piece in answer.body():
            await response.write(piece)
        return None

    async def _say_that_it_waits(self, answer: Answer) -> None:
        """Until the head is there."""
        async for place in waiting(self._inference, answer):
            response = await self._begin(place)
            await response.write(comment(place))

    async def _begin(self, place: Place | None = None) -> web.StreamResponse:
        if self._begun is not None:
            return self._begun
        headers = {
            "X-Request-Id": self._ask.request,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
        response = web.StreamResponse(headers=headers | place_headers(place))
        response.content_type = EVENTS
        self._begun = response
        await response.prepare(self._request)
        return response


async def waiting(inference: Inference, answer: Answer) -> AsyncIterator[Place | None]:
    """Where it stands, now and then until its head is there; None: it is taken, and has said nothing yet.

    Only for a stream: anything else cannot be told before its end.
    """
    while answer.ask.stream and answer.ask.endpoint.style is not Style.PLAIN:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAY_EVERY_S):
                await answer.head()
                return
        yield inference.place(answer) if answer.waits else None


def place_headers(place: Place | None) -> dict[str, str]:
    """Where a request stood when its answer began."""
    if place is None:
        return {}
    return {"X-Queue-Position": str(place.position), "X-Queue-Expected-Wait-S": f"{place.expected_wait_s:g}"}


def comment(place: Place | None) -> bytes:
    """The same as a comment between server-sent events."""
    if place is None:
        return b": the model reads the prompt\n\n"
    why = f" once the model is there: {place.reason}" if place.reason else ""
    return f": waiting, position {place.position}, about {place.expected_wait_s:g} s{why}\n\n".encode()


def _whole(head: AnswerHead, body: bytes, request: str) -> web.Response:
    headers = {"X-Request-Id": request}
    return web.Response(body=body, status=head.status, content_type=head.content_type, headers=headers)


def error_event(style: Style, error: YardError) -> bytes:
    """An error in the middle of a stream, as clients of that style look for it."""
    detail = error.body().error
    match style:
        case Style.MESSAGES:
            return b"event: error\ndata: %b\n\n" % msgspec.json.encode({"type": "error", "error": detail})
        case Style.RESPONSES:
            flat = {"type": "error", "code": detail.code, "message": detail.message, "param": detail.param}
            return b"event: error\ndata: %b\n\n" % msgspec.json.encode(flat)
        case _:
            return b"data: %b\n\n" % error.encode()
