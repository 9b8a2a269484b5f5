"""Ollama's paths: asked like any other request, answered in Ollama's words."""

import time

import msgspec
from aiohttp import web

from services.gateway.apis.ollama.answers import Translation
from services.gateway.apis.ollama.asked import Chat, Embed, Generate, OldEmbed, Show
from services.gateway.apis.ollama.asking import Asking, read
from services.gateway.apis.ollama.infill import Infill
from services.gateway.apis.ollama.listing import Listing
from services.gateway.apis.ollama.requests import (
    CHAT,
    EMBED,
    INFILL,
    chat_body,
    generate_body,
    generate_path,
    lets_go,
    says_nothing,
)
from services.gateway.apis.ollama.vectors import embedded, embedded_one, nothing_embedded
from services.gateway.inference.ask import JSON
from services.gateway.inference.inference import Inference

_NAMES = ("chat", "generate", "embed", "embeddings", "tags", "ps", "show", "version")
PATHS = frozenset(f"/api/{name}" for name in _NAMES)
"""Their errors are said in Ollama's words, wherever they come from."""


class Ollama:
    """Handlers of Ollama's paths."""

    def __init__(self, inference: Inference, listing: Listing) -> None:
        self._asking = Asking(inference, listing)
        self._listing = listing

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/chat", self.on_chat),
            web.post("/api/generate", self.on_generate),
            web.post("/api/embed", self.on_embed),
            web.post("/api/embeddings", self.on_old_embed),
            web.get("/api/tags", self.on_tags),
            web.get("/api/ps", self.on_ps),
            web.post("/api/show", self.on_show),
            web.get("/api/version", self.on_version),
        ]

    async def on_chat(self, request: web.Request) -> web.StreamResponse:
        asked = await read(request, Chat)
        said = Translation(asked.model, chat=True)
        if says_nothing(asked):
            return await self._load(request, asked, said)
        lines = said if asked.streams else None
        return await self._asking.send(request, CHAT, chat_body(asked), said.whole, lines)

    async def on_generate(self, request: web.Request) -> web.StreamResponse:
        asked = await read(request, Generate)
        said = Translation(asked.model, chat=False)
        if says_nothing(asked):
            return await self._load(request, asked, said)
        path = generate_path(asked, self._listing.find(asked.model).mode)
        whole = Infill(said, lines=asked.streams).whole if path == INFILL else said.whole
        lines = said if asked.streams else None
        return await self._asking.send(request, path, generate_body(asked, path), whole, lines)

    async def _load(
        self, request: web.Request, asked: Chat | Generate, said: Translation
    ) -> web.StreamResponse:
        """Nothing is said: the model is started. One that may go is left to the yard, which has others."""
        if not lets_go(asked):
            return await self._asking.load(request, asked.model, said.nothing("load"))
        self._listing.find(asked.model)
        return web.Response(body=said.nothing("unload"), content_type=JSON)

    async def on_embed(self, request: web.Request) -> web.StreamResponse:
        asked, began_ns = await read(request, Embed), time.monotonic_ns()
        if not asked.input:
            return await self._asking.load(request, asked.model, nothing_embedded(asked.model))

        def whole(body: bytes) -> bytes:
            return embedded(asked, body, time.monotonic_ns() - began_ns)

        return await self._asking.send(request, EMBED, {"model": asked.model, "input": asked.input}, whole)

    async def on_old_embed(self, request: web.Request) -> web.StreamResponse:
        asked = await read(request, OldEmbed)
        if not asked.prompt:
            return await self._asking.load(request, asked.model, b'{"embedding":[]}')
        body = {"model": asked.model, "input": asked.prompt}
        return await self._asking.send(request, EMBED, body, embedded_one)

    async def on_tags(self, _request: web.Request) -> web.Response:
        return _json(self._listing.tags())

    async def on_ps(self, _request: web.Request) -> web.Response:
        return _json(self._listing.running())

    async def on_show(self, request: web.Request) -> web.Response:
        return _json(self._listing.show(await read(request, Show)))

    async def on_version(self, _request: web.Request) -> web.Response:
        return _json(self._listing.version())


def _json(content: dict[str, object]) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type=JSON)
