"""What a model becomes: pure decisions of the registry."""

from collections.abc import Mapping, Sequence

import msgspec

from modelyard.bus.reads import Revision
from schemas.base import check_model_name, model_key
from schemas.errors import BadRequest, Conflict, ModelNotFound, NotFound
from schemas.models import ModelSpec, find_model
from schemas.registry import PutModel


def plain(asked: PutModel) -> ModelSpec:
    """The spec alone, without what the caller expects."""
    return ModelSpec(**{field: getattr(asked, field) for field in ModelSpec.__struct_fields__})


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
    specs = {each.revision: each.value for each in revisions if each.value is not None}
    if to is not None and to in specs:
        return specs[to]
    if to is not None:
        kept = ", ".join(map(str, specs)) or "none"
        raise NotFound(f"{name} has no spec of revision {to} any more; kept are {kept}.", param="to")
    now = revisions[0].value
    found = next((each.value for each in revisions[1:] if each.value not in (None, now)), None)
    if found is None:
        raise Conflict(f"{name} has no earlier spec to go back to.", param="model")
    return found


def check_once(names: Sequence[str]) -> None:
    """BadRequest if one model is to become two things at once."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadRequest(f"{twice} is there twice; say once what becomes of it.")


def key_of(name: str) -> str:
    """The key of a name that somebody typed; ModelNotFound if no model can be called so."""
    try:
        return model_key(name)
    except ValueError as error:
        raise ModelNotFound(f"{error}.", param="model") from error
