"""The registry for scripts."""

from typing import Any

import msgspec

from modelyard.bus.connection import Bus
from schemas import subjects
from schemas.models import ModelRef, ModelSpec, ModelStored
from schemas.registry import (
    ApplyModels,
    DeleteModel,
    ListModels,
    ModelDeleted,
    ModelHistory,
    ModelRecord,
    ModelsApplied,
    PatchModel,
    PutModel,
    RenameModel,
    UndoModel,
)


class Registry:
    """Reads and changes models. With a `revision`, a change is refused if the model has another by now."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def get(self, model: str) -> ModelRecord:
        """One model, by name or alias."""
        return await self._bus.call(subjects.MODEL_GET, ModelRef(model=model))

    async def records(self) -> tuple[ModelRecord, ...]:
        """Every model, by name."""
        return (await self._bus.call(subjects.MODEL_LIST, ListModels())).models

    async def put(self, spec: ModelSpec, revision: int | None = None) -> ModelStored:
        """A whole spec, new or in place of the one before."""
        return await self._bus.call(subjects.MODEL_PUT, put_of(spec, revision))

    async def patch(self, model: str, patch: dict[str, Any], revision: int | None = None) -> ModelStored:
        """Some fields, as a JSON merge patch: None sets one back to its default."""
        asked = PatchModel(model=model, patch=patch, revision=revision)
        return await self._bus.call(subjects.MODEL_PATCH, asked)

    async def rename(
        self, model: str, name: str, *, keep_alias: bool = False, force: bool = False
    ) -> ModelStored:
        """Another name; `force` has running instances drained and stopped."""
        asked = RenameModel(model=model, name=name, keep_alias=keep_alias, force=force)
        return await self._bus.call(subjects.MODEL_RENAME, asked)

    async def delete(self, model: str, *, force: bool = False) -> ModelDeleted:
        """Out of the registry; `force` has running instances drained and stopped. The files stay."""
        return await self._bus.call(subjects.MODEL_DELETE, DeleteModel(model=model, force=force))

    async def apply(self, changes: ApplyModels) -> ModelsApplied:
        """Many changes, all of them or none."""
        return await self._bus.call(subjects.MODEL_APPLY, changes)

    async def history(self, model: str) -> ModelHistory:
        """The last revisions, newest first; by its name also of a deleted model."""
        return await self._bus.call(subjects.MODEL_HISTORY, ModelRef(model=model))

    async def undo(self, model: str, to: int | None = None) -> ModelStored:
        """Back to revision `to`, or to the newest spec that differs; a deleted model comes back."""
        return await self._bus.call(subjects.MODEL_UNDO, UndoModel(model=model, to=to))


def put_of(spec: ModelSpec, revision: int | None = None) -> PutModel:
    """The command that puts `spec`."""
    return PutModel(**msgspec.structs.asdict(spec), revision=revision)
