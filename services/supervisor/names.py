"""What a spec must be beside well formed: its names its own, its files in the store."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelyard.host.paths import resolve_inside
from schemas.errors import BadRequest, Conflict
from schemas.models import ModelSpec

MAX_SPEC_BYTES = 256 * 1024
"""Its events have it twice, its history twenty times, and a list of models has them all."""


def check_spec(spec: ModelSpec, models: Mapping[str, ModelSpec], store: Path) -> None:
    """BadRequest or Conflict if `spec` cannot be a model among `models`."""
    if (size := len(msgspec.json.encode(spec))) > MAX_SPEC_BYTES:
        raise BadRequest(f"{spec.name} has {size} bytes as JSON; a model has at most {MAX_SPEC_BYTES}.")
    files = {"path": spec.path, "mmproj": spec.mmproj, "chat_template": spec.chat_template}
    files |= {f"loras[{index}].path": lora.path for index, lora in enumerate(spec.loras)}
    for field, path in files.items():
        _check_file(field, path, store)
    if (clash := clashing(spec, models)) is not None:
        raise Conflict(clash, param="aliases")


def _check_file(field: str, path: str | None, store: Path) -> None:
    try:
        if path is not None:
            resolve_inside(store, path)
    except ValueError as error:
        raise BadRequest(str(error), param=field) from error


def clashing(spec: ModelSpec, models: Mapping[str, ModelSpec]) -> str | None:
    """Why the names of `spec` cannot be its own, or None. Its name may be among its aliases."""
    twice = next((alias for alias in spec.aliases if spec.aliases.count(alias) > 1), None)
    if twice is not None:
        return f"{spec.name} has the alias {twice!r} twice."
    for other in models.values():
        if other.name == spec.name:
            continue
        shared = {spec.name, *spec.aliases} & {other.name, *other.aliases}
        if shared:
            return f"The name {sorted(shared)[0]!r} belongs to the model {other.name!r} already."
    return None
