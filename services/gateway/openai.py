"""The OpenAI API over HTTP."""

import msgspec
from aiohttp import web

from modelyard.bus import Bus
from schemas.errors import YardError
from schemas.models import ModelSpec
from services.gateway.catalog import Catalog
from services.gateway.inference import Ask, Inference
from services.gateway.middleware import KEY_ID

CHAT = "/v1/chat/completions"


class OpenAI:
    """Handlers of `/v1/…`."""

    def __init__(self, bus: Bus, catalog: Catalog, inference: Inference) -> None:
        self._bus = bus
        self._catalog = catalog
        self._inference = inference

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(CHAT, self.on_infer),
            web.get("/v1/models", self.on_models),
            web.get("/v1/models/{model:.+}", self.on_model),
        ]

    async def on_models(self, _request: web.Request) -> web.Response:
        specs = sorted(self._catalog.models.values.values(), key=lambda spec: spec.name)
        return _json({"object": "list", "data": [self._model(spec) for spec in specs]})

    async def on_model(self, request: web.Request) -> web.Response:
        return _json(self._model(self._catalog.resolve(request.match_info["model"])))

    def _model(self, spec: ModelSpec) -> dict[str, object]:
        """OpenAI's fields first, then ours."""
        return {
            "id": spec.name,
            "object": "model",
            "created": 0,
            "owned_by": "modelyard",
            "aliases": spec.aliases,
            "mode": spec.mode,
            "state": self._catalog.state(spec.name),
        }

    async def on_infer(self, request: web.Request) -> web.StreamResponse:
        ask = Ask(
            path=request.path,
            body=await request.read(),
            key=request.get(KEY_ID),
            traceparent=request.headers.get("traceparent"),
        )
        response: web.StreamResponse | None = None
        try:
            async with self._inference.ask(ask) as (answer, _):
                head = await answer.head()
                response = web.StreamResponse(status=head.status, headers={"X-Request-Id": ask.request})
                response.content_type = head.content_type
                if head.content_type != "text/event-stream":
                    body = b"".join([piece async for piece in answer.body()])
                    return _whole(head.status, head.content_type, body, ask.request)
                response.headers["Cache-Control"] = "no-cache"
                response.headers["X-Accel-Buffering"] = "no"
                await response.prepare(request)
                async for piece in answer.body():
                    await response.write(piece)
        except YardError as error:
            if response is None or not response.prepared:
                raise
            await response.write(b"data: " + error.encode() + b"\n\n")
        await response.write_eof()
        return response


def _whole(status: int, content_type: str, body: bytes, request: str) -> web.Response:
    return web.Response(
        body=body, status=status, content_type=content_type, headers={"X-Request-Id": request}
    )


def _json(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
