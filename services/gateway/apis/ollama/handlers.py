"""Ollama's paths: each request is translated, submitted like any other, and its answer translated back."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

from modelyard.openai.sse import read_data
from schemas.errors import YardError, from_error_body
from schemas.frames import AnswerHead
from services.gateway.apis.ollama.answers import (
    CompletionTranslation,
    empty_embed,
    error_body,
    translate_embed,
    translate_embeddings,
    translate_infill,
)
from services.gateway.apis.ollama.bodies import ChatBody, EmbedBody, EmbeddingsBody, GenerateBody
from services.gateway.apis.ollama.listing import ModelListing
from services.gateway.apis.ollama.requests import (
    CHAT,
    EMBED,
    INFILL,
    chat_request,
    generate_path,
    generate_request,
    is_empty,
    is_unload,
)
from services.gateway.apis.reply import HttpReply, ReplyFormat
from services.gateway.http import KEY_ID, read_body
from services.gateway.inference.inference import Inference
from services.gateway.inference.request import JSON, InferRequest

_NAMES = ("chat", "generate", "embed", "embeddings", "tags", "ps", "show", "version")
PATHS = frozenset(f"/api/{name}" for name in _NAMES)
"""Paths with errors in Ollama's shape, whatever part of the yard they come from."""
_LOADING_PATH = "/tokenize"
"""A path that every model serves: once it is answered, the model is loaded."""
LINES = "application/x-ndjson"


class LineFormat(ReplyFormat):
    """One object, translated by `whole`; or a line a chunk, where there are `lines`."""

    stream_type = LINES
    comments = False

    def __init__(
        self,
        request: InferRequest,
        whole: Callable[[bytes], bytes],
        lines: CompletionTranslation | None = None,
    ) -> None:
        super().__init__(request)
        self._translate = whole
        self._lines = lines

    def is_stream(self, head: AnswerHead) -> bool:
        return self._lines is not None and self.request.stream and head.status == HTTPStatus.OK

    async def stream(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        assert self._lines is not None
        async for data in read_data(pieces):
            if line := self._lines.line(data):
                yield line
        if last := self._lines.last():
            yield last

    def whole(self, head: AnswerHead, body: bytes) -> web.Response:
        headers = {"X-Request-Id": self.request.id}
        if head.status != HTTPStatus.OK:
            refused = error_body(from_error_body(body))
            return web.Response(body=refused, status=head.status, content_type=JSON, headers=headers)
        content_type = JSON if self._lines is None else LINES
        return web.Response(body=self._translate(body), content_type=content_type, headers=headers)

    def error(self, error: YardError) -> bytes:
        return error_body(error) + b"\n"


class OllamaApi:
    def __init__(self, inference: Inference, listing: ModelListing) -> None:
        self._inference = inference
        self._listing = listing

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/chat", self.on_chat),
            web.post("/api/generate", self.on_generate),
            web.post("/api/embed", self.on_embed),
            web.post("/api/embeddings", self.on_embeddings),
            *self._listing.routes(),
        ]

    async def on_chat(self, request: web.Request) -> web.StreamResponse:
        chat = await read_body(request, ChatBody)
        translation = CompletionTranslation(chat.model, chat=True)
        if is_empty(chat):
            return await self._load_or_unload(request, chat, translation)
        lines = translation if chat.streams else None
        return await self._reply(request, CHAT, chat_request(chat), translation.whole, lines)

    async def on_generate(self, request: web.Request) -> web.StreamResponse:
        generate = await read_body(request, GenerateBody)
        translation = CompletionTranslation(generate.model, chat=False)
        if is_empty(generate):
            return await self._load_or_unload(request, generate, translation)
        path = generate_path(generate, self._listing.find(generate.model).mode)

        def infill(body: bytes) -> bytes:
            return translate_infill(translation, body, lines=generate.streams)

        whole = infill if path == INFILL else translation.whole
        lines = translation if generate.streams else None
        return await self._reply(request, path, generate_request(generate, path), whole, lines)

    async def _load_or_unload(
        self, request: web.Request, body: ChatBody | GenerateBody, translation: CompletionTranslation
    ) -> web.StreamResponse:
        if not is_unload(body):
            return await self._load(request, body.model, translation.empty("load"))
        # The yard decides when a model is unloaded: others may use it.
        self._listing.find(body.model)
        return web.Response(body=translation.empty("unload"), content_type=JSON)

    async def on_embed(self, request: web.Request) -> web.StreamResponse:
        embed, began_ns = await read_body(request, EmbedBody), time.monotonic_ns()
        if not embed.input:
            return await self._load(request, embed.model, empty_embed(embed.model))

        def whole(body: bytes) -> bytes:
            return translate_embed(embed, body, time.monotonic_ns() - began_ns)

        return await self._reply(request, EMBED, {"model": embed.model, "input": embed.input}, whole)

    async def on_embeddings(self, request: web.Request) -> web.StreamResponse:
        embeddings = await read_body(request, EmbeddingsBody)
        if not embeddings.prompt:
            return await self._load(request, embeddings.model, b'{"embedding":[]}')
        body = {"model": embeddings.model, "input": embeddings.prompt}
        return await self._reply(request, EMBED, body, translate_embeddings)

    async def _load(self, request: web.Request, model: str, reply: bytes) -> web.StreamResponse:
        """Have the model started, and send `reply` once it is ready."""
        return await self._reply(request, _LOADING_PATH, {"model": model, "content": ""}, lambda _body: reply)

    async def _reply(
        self,
        request: web.Request,
        path: str,
        body: Mapping[str, object],
        whole: Callable[[bytes], bytes],
        lines: CompletionTranslation | None = None,
    ) -> web.StreamResponse:
        """Submit `body` to `path` under the model's own name; see `LineFormat` for `whole` and `lines`."""
        model = self._listing.known_name(str(body["model"]))
        infer_request = InferRequest(
            path=path,
            body=msgspec.json.encode({**body, "model": model}),
            model=model,
            stream=bool(body.get("stream")),
            key=request.get(KEY_ID),
            traceparent=request.headers.get("traceparent"),
        )
        return await HttpReply(request, self._inference, LineFormat(infer_request, whole, lines)).send()
