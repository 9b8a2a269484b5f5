"""A document becomes a spec, or a sentence that says why it is none."""

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from schemas.errors import BadRequest
from schemas.models import ModelSpec

_SPEC = inspect.type_info(ModelSpec)


def spec_from(document: Mapping[str, Any]) -> ModelSpec:
    """The spec that `document` is; BadRequest if a field is unknown, missing or wrong."""
    check_fields(document)
    try:
        return msgspec.convert(document, ModelSpec)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{document.get('name', 'The model')} is not valid: {error}.") from error


def check_fields(document: object) -> None:
    """BadRequest if a spec has no field of a name in `document`: a misspelt one must not be lost silently."""
    _check(document, _SPEC, "A model")


def check_fields_of(kind: type, document: object, what: str) -> None:
    """As `check_fields`, of any record; `what` is how the sentence calls it."""
    _check(document, _type_info(kind), what)


_type_info = cache(inspect.type_info)


def _check(document: object, kind: inspect.Type, what: str) -> None:
    if (unknown := _unknown(document, kind, "")) is not None:
        place, close = unknown
        hint = f" Did you mean {close!r}?" if close else " docs/asyncapi.json lists those there are."
        raise BadRequest(f"{what} has no field {place!r}.{hint}", param=place)


def _unknown(document: object, kind: inspect.Type, place: str) -> tuple[str, str | None] | None:
    """Where the first unknown field is, and the known one that is spelt most like it."""
    match kind:
        case inspect.StructType(fields=fields) if isinstance(document, Mapping):
            return _unknown_in({field.encode_name: field.type for field in fields}, document, place)
        case inspect.VarTupleType(item_type=item) if isinstance(document, list | tuple):
            found = (_unknown(each, item, f"{place}[{index}]") for index, each in enumerate(document))
        case inspect.UnionType(types=types):
            found = (_unknown(document, each, place) for each in types)
        case _:
            return None
    return next(filter(None, found), None)


def _unknown_in(
    known: Mapping[str, inspect.Type], document: Mapping[str, object], place: str
) -> tuple[str, str | None] | None:
    for name, value in document.items():
        here = f"{place}.{name}" if place else str(name)
        if name not in known:
            return here, next(iter(difflib.get_close_matches(str(name), known, 1)), None)
        if (found := _unknown(value, known[name], here)) is not None:
            return found
    return None
