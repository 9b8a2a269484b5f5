"""The OpenAI API over HTTP, and every other path of an engine that takes a model's name."""

import re

import msgspec
from aiohttp import web

from schemas.endpoints import BY_PATH, ENDPOINTS
from schemas.errors import NotFound
from schemas.models import ModelSpec
from services.gateway.apis.answering import respond
from services.gateway.apis.form import model_of_form
from services.gateway.catalog import Catalog
from services.gateway.inference.ask import JSON, Ask, read_asked
from services.gateway.inference.inference import Inference
from services.gateway.middleware import KEY_ID

_PLAIN_PATH = re.compile(r"/v1(/[A-Za-z0-9_-][A-Za-z0-9_.:-]*)+")
"""Other paths could lead out of `/v1/`, or round what is known of a path in it."""


class OpenAI:
    """Handlers of `/v1/…`."""

    def __init__(self, catalog: Catalog, inference: Inference) -> None:
        self._catalog = catalog
        self._inference = inference

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self.on_models),
            web.route("*", "/v1/models", _only_get),
            web.get("/v1/models/{model:.+}", self.on_model),
            *(web.post(endpoint.path, self.on_infer) for endpoint in ENDPOINTS),
            web.route("*", "/v1/{path:.+}", self.on_other),
        ]

    async def on_models(self, _request: web.Request) -> web.Response:
        specs = sorted(self._catalog.models.values.values(), key=lambda spec: spec.shown)
        return _json({"object": "list", "data": [self._model(spec) for spec in specs]})

    async def on_model(self, request: web.Request) -> web.Response:
        return _json(self._model(self._catalog.resolve(request.match_info["model"])))

    def _model(self, spec: ModelSpec) -> dict[str, object]:
        """OpenAI's fields first, then ours."""
        return {
            "id": spec.shown,
            "object": "model",
            "created": 0,
            "owned_by": "modelyard",
            "aliases": spec.aliases,
            "mode": spec.mode,
            "state": self._catalog.state(spec.name),
        }

    async def on_other(self, request: web.Request) -> web.StreamResponse:
        """A path of an engine that we know nothing of."""
        if request.path in BY_PATH:
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        if request.method != "POST" or not _PLAIN_PATH.fullmatch(request.path):
            raise NotFound(f"There is no {request.method} {request.path} here.")
        return await self.on_infer(request)

    async def on_infer(self, request: web.Request) -> web.StreamResponse:
        """Any request for a model: queued, answered, passed on as its engine says it."""
        return await respond(request, self._inference, await ask_of(request))


async def _only_get(request: web.Request) -> web.StreamResponse:
    raise web.HTTPMethodNotAllowed(request.method, ["GET"])


async def ask_of(request: web.Request) -> Ask:
    """What a request asks for, from its body."""
    body = await request.read()
    if request.content_type == "multipart/form-data":
        content_type, model, stream = (
            request.headers["Content-Type"],
            await model_of_form(request.headers, body),
            False,
        )
    else:
        # Whatever a client calls it: curl says form, many say nothing.
        asked = read_asked(body, request.path)
        content_type, model, stream = JSON, asked.model, bool(asked.stream)
    return Ask(
        path=request.path,
        body=body,
        model=model,
        stream=stream,
        content_type=content_type,
        key=request.get(KEY_ID),
        traceparent=request.headers.get("traceparent"),
    )


def _json(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type=JSON)
