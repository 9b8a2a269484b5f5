"""An answer over HTTP: whole, or as server-sent events, with a word now and then while it waits."""

import asyncio
import contextlib

import msgspec
from aiohttp import web

from schemas.endpoints import Style
from schemas.errors import ErrorBody, YardError, from_body
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
    response: web.StreamResponse | None = None
    try:
        async with inference.ask(ask) as answer:
            if ask.stream and ask.endpoint.style is not Style.PLAIN:
                response = await _wait(request, inference, answer)
            head = await answer.head()
            if head.content_type != EVENTS:
                body = b"".join([piece async for piece in answer.body()])
                if response is None:
                    return _whole(head, body, ask.request)
                # We said 200 when it began to wait; what the engine says now is an event.
                await response.write(error_event(ask.endpoint.style, _error_in(body)))
            else:
                response = response or await _begin(request, ask, None)
                async for piece in answer.body():
                    await response.write(piece)
    except YardError as error:
        if response is None:
            raise
        await response.write(error_event(ask.endpoint.style, error))
    await response.write_eof()
    return response


async def _wait(request: web.Request, inference: Inference, answer: Answer) -> web.StreamResponse | None:
    """Wait for the head; the response, if it had to begin before that."""
    response: web.StreamResponse | None = None
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SAY_EVERY_S):
                await answer.head()
                return response
        if answer.waits:
            place = inference.place(answer)
            response = response or await _begin(request, answer.ask, place)
            said = f": waiting, position {place.position}, about {place.expected_wait_s:g} s\n\n"
        else:
            response = response or await _begin(request, answer.ask, None)
            said = ": the model reads the prompt\n\n"
        await response.write(said.encode())


async def _begin(request: web.Request, ask: Ask, place: Place | None) -> web.StreamResponse:
    headers = {"X-Request-Id": ask.request, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if place is not None:
        headers |= place_headers(place)
    response = web.StreamResponse(headers=headers)
    response.content_type = EVENTS
    await response.prepare(request)
    return response


def place_headers(place: Place) -> dict[str, str]:
    """Where a request stood when its answer began."""
    return {"X-Queue-Position": str(place.position), "X-Queue-Expected-Wait-S": f"{place.expected_wait_s:g}"}


def _whole(head: AnswerHead, body: bytes, request: str) -> web.Response:
    headers = {"X-Request-Id": request}
    return web.Response(body=body, status=head.status, content_type=head.content_type, headers=headers)


def _error_in(body: bytes) -> YardError:
    return from_body(msgspec.json.decode(body, type=ErrorBody))


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
