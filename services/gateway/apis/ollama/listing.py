"""The yard's models in Ollama's words: those there are, those that run, and what one of them can."""

import hashlib

import msgspec

import modelyard
from schemas.errors import BadRequest
from schemas.instances import InstanceState
from schemas.models import Mode, ModelSpec
from services.gateway.apis.ollama.answers import now
from services.gateway.apis.ollama.asked import Show
from services.gateway.catalog import Catalog

Json = dict[str, object]
_LATEST = ":latest"
_FOREVER = "2318-01-01T00:00:00Z"
"""As Ollama writes that a model is not to go by itself."""
_ABILITIES = {Mode.CHAT: ["completion"], Mode.COMPLETION: ["completion"], Mode.EMBEDDING: ["embedding"]}
"""What each mode can, in Ollama's words."""


class Listing:
    """What there is, and what runs."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def known_name(self, name: str) -> str:
        """Ollama's clients put `:latest` behind names that have no tag."""
        bare = name.removesuffix(_LATEST)
        return bare if bare != name and not self._catalog.has(name) else name

    def find(self, name: str) -> ModelSpec:
        """The model of this name, alias or tag; ModelNotFound if there is none."""
        return self._catalog.resolve(self.known_name(name))

    def tags(self) -> Json:
        """All models, for `/api/tags`."""
        return {"models": [_entry(spec) for spec in self._specs()]}

    def running(self) -> Json:
        """Those that are ready, for `/api/ps`."""
        ready = [spec for spec in self._specs() if self._catalog.state(spec.name) == InstanceState.READY]
        return {"models": [_entry(spec) | _running(spec) for spec in ready]}

    def show(self, asked: Show) -> Json:
        """One model, for `/api/show`."""
        name = asked.model or asked.name
        if not name:
            raise BadRequest("Which model? The body has no `model`.", param="model")
        return shown(self.find(name))

    def version(self) -> Json:
        """Ours, for `/api/version`."""
        return {"version": modelyard.__version__}

    def _specs(self) -> list[ModelSpec]:
        return sorted(self._catalog.models.values.values(), key=lambda spec: spec.name)


def shown(spec: ModelSpec) -> Json:
    """What is known of a model without opening its file."""
    vision = ["vision"] if spec.mmproj else []
    return {
        "details": _details(spec),
        "model_info": {"general.basename": spec.name, "general.context_length": spec.n_ctx},
        "capabilities": [*_ABILITIES.get(spec.mode, []), *vision],
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
        # It tells one state of a model from another, which is what clients compare it for.
        "digest": hashlib.sha256(msgspec.json.encode(spec)).hexdigest(),
        "details": _details(spec),
    }


def _running(spec: ModelSpec) -> Json:
    return {"expires_at": _FOREVER, "size_vram": 0, "context_length": spec.n_ctx}


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
