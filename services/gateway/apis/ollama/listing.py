"""The yard's models in Ollama's shape: all, those that run, and the details of one."""

import hashlib

import msgspec
from aiohttp import web

import modelyard
from schemas.errors import BadRequest
from schemas.instances import InstanceState
from schemas.models import Mode, ModelSpec
from services.gateway.apis.ollama.answers import now
from services.gateway.apis.ollama.bodies import ShowBody
from services.gateway.catalog import Catalog
from services.gateway.http import json_response, read_body

Json = dict[str, object]
_LATEST = ":latest"
_FOREVER = "2318-01-01T00:00:00Z"
"""Ollama's expiry of a model that is never unloaded."""
_CAPABILITIES = {Mode.CHAT: ["completion"], Mode.COMPLETION: ["completion"], Mode.EMBEDDING: ["embedding"]}
"""Ollama's capabilities by mode."""


class ModelListing:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def known_name(self, name: str) -> str:
        """The name without the `:latest` that Ollama's clients append to names without a tag."""
        bare = name.removesuffix(_LATEST)
        return bare if bare != name and not self._catalog.has_model(name) else name

    def find(self, name: str) -> ModelSpec:
        """The model of this name, alias or tag; ModelNotFound if there is none."""
        return self._catalog.resolve(self.known_name(name))

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/tags", self.on_tags),
            web.get("/api/ps", self.on_ps),
            web.post("/api/show", self.on_show),
            web.get("/api/version", self.on_version),
        ]

    async def on_tags(self, _request: web.Request) -> web.Response:
        return json_response({"models": [_entry(spec) for spec in self._specs()]})

    async def on_ps(self, _request: web.Request) -> web.Response:
        ready = [spec for spec in self._specs() if self._catalog.state(spec.name) == InstanceState.READY]
        loaded: Json = {"expires_at": _FOREVER, "size_vram": 0}
        models = [_entry(spec) | loaded | {"context_length": spec.n_ctx} for spec in ready]
        return json_response({"models": models})

    async def on_show(self, request: web.Request) -> web.Response:
        body = await read_body(request, ShowBody)
        name = body.model or body.name
        if not name:
            raise BadRequest("Which model? The body has no `model`.", param="model")
        return json_response(model_details(self.find(name)))

    async def on_version(self, _request: web.Request) -> web.Response:
        return json_response({"version": modelyard.__version__})

    def _specs(self) -> list[ModelSpec]:
        return sorted(self._catalog.models.values.values(), key=lambda spec: spec.name)


def model_details(spec: ModelSpec) -> Json:
    """The details of a model that its spec has, for `/api/show`."""
    vision = ["vision"] if spec.mmproj else []
    return {
        "details": _details(spec),
        "model_info": {"general.basename": spec.name, "general.context_length": spec.n_ctx},
        "capabilities": [*_CAPABILITIES.get(spec.mode, []), *vision],
        "modified_at": now(),
        "parameters": "",
        "template": "",
        "modelfile": "",
    }


def _entry(spec: ModelSpec) -> Json:
    return {
        "name": spec.shown,
        "model": spec.shown,
        "modified_at": now(),
        "size": 0,
        # Clients compare it to notice that a model has changed.
        "digest": hashlib.sha256(msgspec.json.encode(spec)).hexdigest(),
        "details": _details(spec),
    }


def _details(spec: ModelSpec) -> Json:
    quant = spec.source.quant if spec.source else None
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "",
        "families": None,
        "parameter_size": "",
        "quantization_level": quant or "",
    }
