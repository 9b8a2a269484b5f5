"""`/api/tags`, `/api/ps`, `/api/show`, `/api/version`: the yard's models in Ollama's words."""

from typing import Any

import msgspec
from aiohttp import web

import modelyard
from schemas.errors import BadRequest
from schemas.instances import InstanceState
from schemas.models import Mode, ModelSpec
from services.gateway.apis.ollama.answers import now
from services.gateway.apis.ollama.requests import Show
from services.gateway.catalog import Catalog

Json = dict[str, Any]
_LATEST = ":latest"
_CAPABILITIES = {Mode.CHAT: ["completion"], Mode.COMPLETION: ["completion"], Mode.EMBEDDING: ["embedding"]}
"""What each mode can, in Ollama's words."""


class Listing:
    """What there is, and what runs."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def known_name(self, name: str) -> str:
        """Ollama's clients put `:latest` behind names that have no tag."""
        bare = name.removesuffix(_LATEST)
        return bare if bare != name and not self._catalog.has(name) else name

    async def on_tags(self, _request: web.Request) -> web.Response:
        return _json({"models": [_entry(spec) for spec in self._catalog.models.values.values()]})

    async def on_ps(self, _request: web.Request) -> web.Response:
        running = [
            spec
            for spec in self._catalog.models.values.values()
            if self._catalog.state(spec.name) == InstanceState.READY
        ]
        never = {"expires_at": "0001-01-01T00:00:00Z", "size_vram": 0}
        return _json({"models": [_entry(spec) | never for spec in running]})

    async def on_show(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=Show)
        name = asked.model or asked.name
        if not name:
            raise BadRequest("Which model? The body has no `model`.", param="model")
        spec = self._catalog.resolve(self.known_name(name))
        return _json(
            {
                "details": _details(spec),
                "model_info": {"general.basename": spec.name, "general.context_length": spec.n_ctx},
                "capabilities": _CAPABILITIES.get(spec.mode, []),
                "modified_at": now(),
                "parameters": "",
                "template": "",
                "modelfile": "",
            }
        )

    async def on_version(self, _request: web.Request) -> web.Response:
        return _json({"version": modelyard.__version__})


def _entry(spec: ModelSpec) -> Json:
    return {
        "name": spec.name,
        "model": spec.name,
        "modified_at": now(),
        "size": 0,
        "digest": "",
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


def _json(content: Json) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
