"""The OpenAI API over HTTP, and every other path of an engine with a model in its body."""

import re

from aiohttp import web

from schemas.errors import NotFound
from schemas.models import ModelSpec
from schemas.requests import BY_PATH, ENDPOINTS
from services.gateway.apis.reply import EngineFormat, HttpReply
from services.gateway.catalog import Catalog
from services.gateway.http import KEY_ID, json_response
from services.gateway.inference.inference import Inference
from services.gateway.inference.request import JSON, InferRequest, model_of_form, read_fields

_PLAIN_PATH = re.compile(r"/v1(/[A-Za-z0-9_-][A-Za-z0-9_.:-]*)+")
"""Other paths could lead out of `/v1/`, or around the rules of a path in it."""


class OpenAIApi:
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
        return json_response({"object": "list", "data": [self._model(spec) for spec in specs]})

    async def on_model(self, request: web.Request) -> web.Response:
        return json_response(self._model(self._catalog.resolve(request.match_info["model"])))

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
        """A path of an engine that is not in the contract."""
        if request.path in BY_PATH:
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        if request.method != "POST" or not _PLAIN_PATH.fullmatch(request.path):
            raise NotFound(f"There is no {request.method} {request.path} here.")
        return await self.on_infer(request)

    async def on_infer(self, request: web.Request) -> web.StreamResponse:
        """Any request for a model: queued, and answered as its engine answers."""
        return await HttpReply(request, self._inference, EngineFormat(await read_request(request))).send()


async def _only_get(request: web.Request) -> web.StreamResponse:
    raise web.HTTPMethodNotAllowed(request.method, ["GET"])


async def read_request(request: web.Request) -> InferRequest:
    body = await request.read()
    if request.content_type == "multipart/form-data":
        content_type, stream = request.headers["Content-Type"], False
        model = await model_of_form(request.headers, body)
    else:
        # Whatever its content type: curl sends a form's, many clients send none.
        fields = read_fields(body, request.path)
        content_type, model, stream = JSON, fields.model, bool(fields.stream)
    return InferRequest(
        path=request.path,
        body=body,
        model=model,
        stream=stream,
        content_type=content_type,
        key=request.get(KEY_ID),
        traceparent=request.headers.get("traceparent"),
    )
