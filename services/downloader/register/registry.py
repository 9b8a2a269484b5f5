"""Writes models to the registry, retried until it answers; a field a person has set is never overwritten."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.errors import (
    BrokerUnavailable,
    Conflict,
    DeadlineExceeded,
    ModelNotFound,
    ServiceUnavailable,
    YardError,
)
from schemas.models import ModelRef, ModelSpec, ModelStored
from schemas.registry import ModelRecord, PatchModel, PutModel
from schemas.subject import Command

T = TypeVar("T")
R = TypeVar("R")

_TIMEOUT_S = 30.0
_PAUSE_S = 0.1
_TRIES = 5


async def register_model(bus: Bus, spec: ModelSpec, chosen: frozenset[str] = frozenset()) -> ModelStored:
    """Create a model, or update the model of this name.

    An update changes the paths of its files and the `chosen` fields; Conflict if its files are others.
    """
    failure: YardError = Conflict(f"{spec.name} was changed by others {_TRIES} times in a row; try again.")
    for _ in range(_TRIES):
        try:
            return await _call(bus, subjects.MODEL_PUT, PutModel(**msgspec.structs.asdict(spec), revision=0))
        except Conflict:
            if (record := await _get(bus, spec.name)) is None:
                raise
        patch = patch_of(record.spec, spec, chosen)
        if not patch:
            return ModelStored(name=spec.name, revision=record.revision)
        request = PatchModel(model=spec.name, patch=patch, revision=record.revision)
        try:
            return await _call(bus, subjects.MODEL_PATCH, request)
        except (Conflict, ModelNotFound) as error:
            failure = error  # changed or deleted since it was read
    raise failure


def patch_of(before: ModelSpec, proposed: ModelSpec, chosen: frozenset[str]) -> dict[str, Any]:
    """The patch from `before` to `proposed`; Conflict if their files are not the same model."""
    hint = f"The files are here: `yard register {proposed.path} --name NAME`."
    if before.name != proposed.name:
        raise Conflict(
            f"The name {proposed.name} is an alias of {before.name} already; give another name. {hint}",
            param="name",
        )
    if not is_same_model(before, proposed):
        raise Conflict(
            f"There is a model {proposed.name} already, of {before.path}; give another name. {hint}",
            param="name",
        )
    fields = {"path", "source"} | chosen
    if before.mmproj is not None and proposed.mmproj is not None:
        # A projector that a person has removed stays removed.
        fields.add("mmproj")
    old, new = _fields(before), _fields(proposed)
    return {
        field: new[field] for field in sorted(fields) if new[field] is not None and new[field] != old[field]
    }


def is_same_model(before: ModelSpec, proposed: ModelSpec) -> bool:
    """Whether both specs are of one repository, or at one path."""
    repo = proposed.source.repo if proposed.source else None
    return before.path in (proposed.path, repo) or (repo is not None and before.path.startswith(f"{repo}/"))


def retained_fields(before: ModelSpec, proposed: ModelSpec, chosen: frozenset[str]) -> tuple[str, ...]:
    """Fields where `before` differs from `proposed` and stays."""
    changing = {"name", *patch_of(before, proposed, chosen)}
    old, new = _fields(before), _fields(proposed)
    return tuple(field for field in new if field not in changing and new[field] != old[field])


def _fields(spec: ModelSpec) -> Mapping[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    return fields


async def _get(bus: Bus, name: str) -> ModelRecord | None:
    try:
        return await _call(bus, subjects.MODEL_GET, ModelRef(model=name))
    except ModelNotFound:
        return None


async def _call(bus: Bus, command: Command[T, R], request: T) -> R:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return await bus.call(command, request)
        except (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_S)
