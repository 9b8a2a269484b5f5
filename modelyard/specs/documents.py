"""A spec as short as it can be said, and what differs between two."""

from enum import Enum
from typing import Any, NamedTuple

import msgspec

from schemas.models import ModelSpec


class Difference(NamedTuple):
    """One field that two specs do not share; None where it is as by default, or absent."""

    field: str
    old: Any
    new: Any


def brief(value: Any) -> Any:
    """A spec, or a part of one, as plain data without what is as by default."""
    if isinstance(value, msgspec.Struct):
        fields = ((field, getattr(value, field.name)) for field in msgspec.structs.fields(value))
        return {field.encode_name: brief(each) for field, each in fields if each != _default(field)}
    if isinstance(value, tuple | list):
        return [brief(each) for each in value]
    if isinstance(value, dict):
        return {name: brief(each) for name, each in value.items()}
    return value.value if isinstance(value, Enum) else value


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def differences(old: ModelSpec, new: ModelSpec) -> list[Difference]:
    """What differs, field by field in the order of the contract; `replicas.max` stands for a part of one."""
    return _between(msgspec.to_builtins(old), msgspec.to_builtins(new), "")


def _between(old: dict[str, Any], new: dict[str, Any], place: str) -> list[Difference]:
    found = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _between(before, after, f"{place}{name}.")
        elif before != after:
            found.append(Difference(f"{place}{name}", before, after))
    return found
