"""One command to the registry, tried until it is there; what a person set before is never undone."""

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


async def register(bus: Bus, spec: ModelSpec, said: frozenset[str] = frozenset()) -> ModelStored:
    """Put a new model, or point the one of this name at its new files.

    Of a model that is there already only its files change, and what somebody `said` now; Conflict if the
    name belongs to a model of other files.
    """
    refused: YardError = Conflict(f"{spec.name} is changed by others all the time; try again.")
    for _ in range(_TRIES):
        try:
            return await _call(bus, subjects.MODEL_PUT, PutModel(**msgspec.structs.asdict(spec), revision=0))
        except Conflict:
            if (record := await _existing(bus, spec.name)) is None:
                raise
        patch = update_of(record.spec, spec, said)
        if not patch:
            return ModelStored(name=spec.name, revision=record.revision)
        asked = PatchModel(model=spec.name, patch=patch, revision=record.revision)
        try:
            return await _call(bus, subjects.MODEL_PATCH, asked)
        except (Conflict, ModelNotFound) as error:
            # Somebody changed or deleted it in between: look again.
            refused = error
    raise refused


def update_of(before: ModelSpec, found: ModelSpec, said: frozenset[str]) -> dict[str, Any]:
    """What changes of a model when its files were fetched again; Conflict if it is made of others."""
    if before.name != found.name:
        raise Conflict(
            f"The name {found.name} is an alias of {before.name} already; give another name. {_here(found)}",
            param="name",
        )
    if not is_same(before, found):
        raise Conflict(
            f"There is a model {found.name} already, of {before.path}; give another name. {_here(found)}",
            param="name",
        )
    fields = {"path", "source"} | said
    if before.mmproj is not None and found.mmproj is not None:
        # Who took the vision part out does not get it back.
        fields.add("mmproj")
    old, new = _plain(before), _plain(found)
    return {
        field: new[field] for field in sorted(fields) if new[field] is not None and new[field] != old[field]
    }


def is_same(before: ModelSpec, found: ModelSpec) -> bool:
    """Whether these are the files of that model: of the same repository, or at the same place."""
    repo = found.source.repo if found.source else None
    return before.path in (found.path, repo) or (repo is not None and before.path.startswith(f"{repo}/"))


def kept_of(before: ModelSpec, found: ModelSpec, said: frozenset[str]) -> tuple[str, ...]:
    """The guessed fields that stay as somebody set them."""
    changing = {"name", *update_of(before, found, said)}
    old, new = _plain(before), _plain(found)
    return tuple(field for field in new if field not in changing and new[field] != old[field])


def _here(found: ModelSpec) -> str:
    return f"The files are here: `yard register {found.path} --name NAME`."


def _plain(spec: ModelSpec) -> Mapping[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(spec)
    return plain


async def _existing(bus: Bus, name: str) -> ModelRecord | None:
    try:
        return await _call(bus, subjects.MODEL_GET, ModelRef(model=name))
    except ModelNotFound:
        return None


async def _call(bus: Bus, command: Command[T, R], asked: T) -> R:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return await bus.call(command, asked)
        except (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_S)
