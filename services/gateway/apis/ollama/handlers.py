"""`/api/chat`, `/api/generate`, `/api/embed`: asked like any other request, answered in Ollama's words."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from schemas.errors import InvalidJson, YardError, from_error_body
from services.gateway.apis.ollama.answers import Translation, embeddings, error_body
from services.gateway.apis.ollama.listing import Listing
from services.gateway.apis.ollama.requests import Chat, Embed, Generate, OldEmbed, chat_body, generate_body
from services.gateway.apis.sse import data_of
from services.gateway.inference.answer import Answer
from services.gateway.inference.ask import Ask
from services.gateway.inference.inference import Inference
from services.gateway.middleware import KEY_ID

T = TypeVar("T")
CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
_LINES = "application/x-ndjson"
_JSON = "application/json"


class Ollama:
    """Handlers of Ollama's paths."""

    def __init__(self, inference: Inference, listing: Listing) -> None:
        self._inference = inference
        self._listing = listing

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/chat", in_ollamas_words(self.on_chat)),
            web.post("/api/generate", in_ollamas_words(self.on_generate)),
            web.post("/api/embed", in_ollamas_words(self.on_embed)),
            web.post("/api/embeddings", in_ollamas_words(self.on_old_embed)),
            web.get("/api/tags", self._listing.on_tags),
            web.get("/api/ps", self._listing.on_ps),
            web.post("/api/show", in_ollamas_words(self._listing.on_show)),
            web.get("/api/version", self._listing.on_version),
        ]

    async def on_chat(self, request: web.Request) -> web.StreamResponse:
        asked = await read(request, Chat)
        translation = Translation(asked.model, chat=True)
        return await self._send(request, CHAT, chat_body(asked), translation)

    async def on_generate(self, request: web.Request) -> web.StreamResponse:
        asked = await read(request, Generate)
        path = TEXT if asked.raw else CHAT
        return await self._send(request, path, generate_body(asked), Translation(asked.model, chat=False))

    async def on_embed(self, request: web.Request) -> web.StreamResponse:
        asked = await read(request, Embed)
        vectors, tokens = await self._embed(request, asked.model, asked.input)
        answer = {"model": asked.model, "embeddings": vectors, "prompt_eval_count": tokens}
        return web.Response(body=msgspec.json.encode(answer), content_type=_JSON)

    async def on_old_embed(self, request: web.Request) -> web.StreamResponse:
        asked = await read(request, OldEmbed)
        (vector, *_), _tokens = await self._embed(request, asked.model, asked.prompt)
        return web.Response(body=msgspec.json.encode({"embedding": vector}), content_type=_JSON)

    async def _embed(
        self, request: web.Request, model: str, texts: str | tuple[str, ...]
    ) -> tuple[list[Any], int]:
        async with self._inference.ask(self._ask(request, EMBED, {"model": model, "input": texts})) as answer:
            return embeddings(await _whole(answer))

    async def _send(
        self, request: web.Request, path: str, body: dict[str, Any], translation: Translation
    ) -> web.StreamResponse:
        ask = self._ask(request, path, body)
        async with self._inference.ask(ask) as answer:
            if not ask.stream:
                whole = translation.whole(await _whole(answer))
                return web.Response(body=whole, content_type=_JSON)
            if (await answer.head()).status != 200:
                await _whole(answer)
            return await _stream(request, answer, translation)

    def _ask(self, request: web.Request, path: str, body: dict[str, Any]) -> Ask:
        model = self._listing.known_name(body["model"])
        return Ask(
            path=path,
            body=msgspec.json.encode({**body, "model": model}),
            model=model,
            stream=bool(body.get("stream")),
            key=request.get(KEY_ID),
            traceparent=request.headers.get("traceparent"),
        )


async def _whole(answer: Answer) -> bytes:
    """The engine's whole answer; raises the error that it may be."""
    head = await answer.head()
    body = b"".join([piece async for piece in answer.body()])
    if head.status != 200:
        raise from_error_body(body)
    return body


async def _stream(request: web.Request, answer: Answer, translation: Translation) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = _LINES
    await response.prepare(request)
    try:
        async for data in data_of(answer.body()):
            if line := translation.line(data):
                await response.write(line)
        await response.write(translation.last())
    except YardError as error:
        await response.write(error_body(error) + b"\n")
    await response.write_eof()
    return response


async def read(request: web.Request, kind: type[T]) -> T:
    """A body of this kind; InvalidJson says where it is not."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not what {request.path} takes: {error}.") from error


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def in_ollamas_words(handler: Handler) -> Handler:
    """Errors as Ollama's clients read them: `{"error": sentence}`."""

    @functools.wraps(handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except YardError as error:
            headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else {}
            return web.Response(
                body=error_body(error), status=error.status, content_type=_JSON, headers=headers
            )

    return handle
