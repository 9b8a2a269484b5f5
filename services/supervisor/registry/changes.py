"""Changes of specs, and what a spec must be to join the others. Pure, but for the paths of files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from modelyard.bus.reads import Revision
from modelyard.host.paths import resolve_inside
from schemas.base import check_model_name, model_key
from schemas.errors import BadRequest, Conflict, ModelNotFound, NotFound
from schemas.models import ModelSpec, find_model
from schemas.registry import PutModel

MAX_SPEC_BYTES = 256 * 1024
"""An event has a spec twice, the history twenty times, and a list of models has all of them."""


def spec_of(request: PutModel) -> ModelSpec:
    """The spec alone, without the expected revision."""
    return ModelSpec(**{field: getattr(request, field) for field in ModelSpec.__struct_fields__})


def renamed(old: ModelSpec, name: str, *, keep_alias: bool) -> ModelSpec:
    """The spec under another name; the first alias, which lists show, never becomes the old name by that."""
    aliases = tuple(alias for alias in old.aliases if alias not in (name, old.name))
    if keep_alias:
        aliases = (*(aliases or (name,)), old.name)
    return msgspec.structs.replace(old, name=name, aliases=aliases)


def check_new_name(name: str, old: ModelSpec, models: Mapping[str, ModelSpec]) -> None:
    """BadRequest or Conflict if `old` cannot be called `name`."""
    try:
        check_model_name(name)
    except ValueError as error:
        raise BadRequest(f"{error}.", param="name") from error
    owner = find_model(name, dict(models))
    if name == old.name or (owner is not None and owner.name != old.name):
        raise Conflict(
            f"The name {name!r} belongs to the model {owner and owner.name!r} already.", param="name"
        )


def earlier(name: str, revisions: Sequence[Revision[ModelSpec]], to: int | None) -> ModelSpec:
    """The spec of revision `to`, or else the newest that differs from the present one."""
    specs = {entry.revision: entry.value for entry in revisions if entry.value is not None}
    if to is not None and to in specs:
        return specs[to]
    if to is not None:
        stored = ", ".join(map(str, specs)) or "none"
        raise NotFound(f"{name} has no spec of revision {to} any more; stored are {stored}.", param="to")
    current = revisions[0].value
    different = (entry.value for entry in revisions[1:] if entry.value not in (None, current))
    if (spec := next(different, None)) is None:
        raise Conflict(f"{name} has no earlier spec to go back to.", param="model")
    return spec


def check_distinct(names: Sequence[str]) -> None:
    """BadRequest if one model is to be changed twice at once."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadRequest(f"{twice} is listed twice; list each model once.")


def key_of(name: str) -> str:
    """The key of a name from a command; ModelNotFound if no model can be called so."""
    try:
        return model_key(name)
    except ValueError as error:
        raise ModelNotFound(f"{error}.", param="model") from error


def check_spec(spec: ModelSpec, models: Mapping[str, ModelSpec], store: Path) -> None:
    """BadRequest or Conflict if `spec` cannot be a model among `models`: its names are its own, its files
    are inside the store."""
    if (size := len(msgspec.json.encode(spec))) > MAX_SPEC_BYTES:
        raise BadRequest(f"{spec.name} has {size} bytes as JSON; a model has at most {MAX_SPEC_BYTES}.")
    files = {"path": spec.path, "mmproj": spec.mmproj, "chat_template": spec.chat_template}
    files |= {f"loras[{index}].path": lora.path for index, lora in enumerate(spec.loras)}
    for field, path in files.items():
        _check_file(field, path, store)
    if (conflict := name_conflict(spec, models)) is not None:
        raise Conflict(conflict, param="aliases")


def _check_file(field: str, path: str | None, store: Path) -> None:
    try:
        if path is not None:
            resolve_inside(store, path)
    except ValueError as error:
        raise BadRequest(str(error), param=field) from error


def name_conflict(spec: ModelSpec, models: Mapping[str, ModelSpec]) -> str | None:
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
