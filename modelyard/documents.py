"""Plain data as records of the contract: checked, patched, shortened and compared."""

import ast
import difflib
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from inspect import cleandoc, getsource
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from schemas.errors import BadRequest
from schemas.models import ModelSpec

_type_info = cache(inspect.type_info)


def spec_from(document: Mapping[str, Any]) -> ModelSpec:
    """The spec that `document` describes; BadRequest if a field is unknown, missing or wrong."""
    check_fields(ModelSpec, document, "A model")
    try:
        return msgspec.convert(document, ModelSpec)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{document.get('name', 'The model')} is not valid: {error}.") from error


def check_fields(record: type, document: object, noun: str) -> None:
    """BadRequest if `record` has no field of a name in `document`: a misspelt one must not be lost silently.

    `noun` begins the sentence.
    """
    for field, similar in _unknown_fields(document, _type_info(record), ""):
        hint = f" Did you mean {similar!r}?" if similar else " docs/asyncapi.json lists those there are."
        raise BadRequest(f"{noun} has no field {field!r}.{hint}", param=field)


def _unknown_fields(document: object, kind: inspect.Type, path: str) -> Iterator[tuple[str, str | None]]:
    """The path of each unknown field, and the known one that is spelt most like it."""
    match kind:
        case inspect.StructType(fields=fields) if isinstance(document, Mapping):
            known = {field.encode_name: field.type for field in fields}
            for name, value in document.items():
                inner = f"{path}.{name}" if path else str(name)
                if name in known:
                    yield from _unknown_fields(value, known[name], inner)
                else:
                    yield inner, next(iter(difflib.get_close_matches(str(name), known, 1)), None)
        case inspect.VarTupleType(item_type=item) if isinstance(document, list | tuple):
            for at, value in enumerate(document):
                yield from _unknown_fields(value, item, f"{path}[{at}]")
        case inspect.UnionType(types=types):
            for member in types:
                yield from _unknown_fields(document, member, path)


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` with a JSON merge patch (RFC 7386): objects are merged, null removes, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def patched(spec: ModelSpec, patch: dict[str, Any]) -> ModelSpec:
    """The spec after `patch`, checked as a whole; BadRequest if it is not valid or has another name."""
    if patch.get("name", spec.name) != spec.name:
        raise BadRequest("A patch does not change the name of a model; rename it instead.", param="name")
    check_fields(ModelSpec, patch, "A model")
    return spec_from(merge_patch(msgspec.to_builtins(spec), patch))


def without_defaults(value: Any) -> Any:
    """A record, or a part of one, as plain data without fields that have their default."""
    if isinstance(value, msgspec.Struct):
        fields = ((field, getattr(value, field.name)) for field in msgspec.structs.fields(value))
        return {
            field.encode_name: without_defaults(inner)
            for field, inner in fields
            if inner != default_of(field)
        }
    if isinstance(value, tuple | list):
        return [without_defaults(item) for item in value]
    if isinstance(value, dict):
        return {name: without_defaults(inner) for name, inner in value.items()}
    return value.value if isinstance(value, Enum) else value


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    """A field's default; `msgspec.NODEFAULT` if it is required."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


@cache
def field_docs(record: type) -> dict[str, str]:
    """The attribute docstrings of a record and its bases, read from their source."""
    docs: dict[str, str] = {}
    for base in reversed(record.__mro__):
        module = sys.modules[base.__module__]
        if not issubclass(base, msgspec.Struct) or base is msgspec.Struct:
            continue
        classes = (node for node in ast.parse(getsource(module)).body if isinstance(node, ast.ClassDef))
        body = next(node.body for node in classes if node.name == base.__name__)
        for line, following in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docs[line.target.id] = cleandoc(text)
    return docs


class Difference(NamedTuple):
    """One field in which two specs differ; None where it is absent."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {_json(self.old)} -> {_json(self.new)}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def differences(old: ModelSpec, new: ModelSpec) -> list[Difference]:
    """Field by field in the order of the contract; `replicas.max` names a nested field."""
    return _differences(msgspec.to_builtins(old), msgspec.to_builtins(new), "")


def _differences(old: dict[str, Any], new: dict[str, Any], path: str) -> list[Difference]:
    found = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{path}{name}.")
        elif before != after:
            found.append(Difference(f"{path}{name}", before, after))
    return found
