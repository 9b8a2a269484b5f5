"""The registry: queries about models, and every change of them."""

import asyncio
from dataclasses import dataclass

from modelyard.bus.connection import Bus
from modelyard.bus.reads import Revision, read_revisions
from modelyard.bus.records import BucketCache
from modelyard.documents import patched
from schemas import buckets
from schemas.base import Role, model_key
from schemas.errors import Conflict, DeadlineExceeded, ModelNotFound
from schemas.instances import LIVE, Instance
from schemas.models import ModelRef, ModelSpec, ModelStored, find_model
from schemas.registry import (
    ApplyModels,
    DeleteModel,
    ListModels,
    ModelChange,
    ModelChanged,
    ModelDeleted,
    ModelHistory,
    ModelList,
    ModelRecord,
    ModelRevision,
    ModelsApplied,
    PatchModel,
    PutModel,
    RenameModel,
    UndoModel,
)
from services.supervisor.registry.groups import Groups
from services.supervisor.registry.ledger import (
    Edit,
    ModelLedger,
    check_distinct,
    check_new_name,
    earlier,
    key_of,
    renamed,
    spec_of,
)

STOP_TIMEOUT_S = 50.0
"""Longer than a runner may take: it drains for 30 s and ends its engine after that."""


@dataclass
class ModelRegistry:
    """Answers the `model` commands, but for start and stop."""

    _bus: Bus
    _models: BucketCache[ModelSpec]
    _instances: BucketCache[Instance]
    _ledger: ModelLedger
    _groups: Groups

    def find(self, name: str) -> ModelSpec:
        """The model with this name or alias; ModelNotFound."""
        spec = find_model(name, self._models.values)
        if spec is None:
            raise ModelNotFound(
                f"There is no model {name!r}; `yard list` shows those there are.", param="model"
            )
        return spec

    def revision(self, name: str) -> int:
        """The revision of the model with this name; KeyError if there is none."""
        return self._models.revisions[model_key(name)]

    async def get(self, ref: ModelRef) -> ModelRecord:
        return self._record(self.find(ref.model))

    async def models(self, query: ListModels) -> ModelList:
        listed = (spec for spec in self._models.values.values() if query.mode in (None, spec.mode))
        return ModelList(models=tuple(map(self._record, sorted(listed, key=lambda spec: spec.name))))

    def _record(self, spec: ModelSpec) -> ModelRecord:
        return ModelRecord(spec=spec, revision=self.revision(spec.name))

    async def put(self, request: PutModel, by: Role) -> ModelStored:
        """Store a new or changed model. BadRequest or Conflict if it cannot be one."""
        async with self._ledger.lock:
            return await self._store(spec_of(request), request.revision, by)

    async def patch(self, request: PatchModel, by: Role) -> ModelStored:
        """Change some fields; the result is checked as a whole."""
        async with self._ledger.lock:
            before = self._record(self.find(request.model))
            # The patch is of the spec in the cache: if the broker has a newer one by now, it is refused.
            revision = before.revision if request.revision is None else request.revision
            return await self._store(patched(before.spec, request.patch), revision, by)

    async def _store(self, spec: ModelSpec, expected: int | None, by: Role) -> ModelStored:
        (checked,) = await self._ledger.check([Edit(spec.name, spec, expected)])
        return ModelStored(name=spec.name, revision=await self._ledger.write_and_publish(checked, by))

    async def rename(self, request: RenameModel, by: Role) -> ModelStored:
        """Rename a model: the new record is written first, so that there is never none."""
        async with self._ledger.lock:
            old = self.find(request.model)
            check_new_name(request.name, old, self._models.values)
            self._check_stopped(old.name, force=request.force)
            new = renamed(old, request.name, keep_alias=request.keep_alias)
            edits = [Edit(old.name, None, request.revision), Edit(new.name, new, 0)]
            removed, added = await self._ledger.check(edits)
            revision = await self._ledger.write(added, by)
            await self._groups.rename_model(old.name, new.name)
            await self._ledger.write(removed, by)
            changed = ModelChanged(revision=revision, by=by, before=removed.before, after=new)
            self._ledger.publish(old.name, ModelChange.RENAMED, changed)
        await self._wait_until_stopped(old.name)
        return ModelStored(name=new.name, revision=revision)

    async def delete(self, request: DeleteModel, by: Role) -> ModelDeleted:
        """Delete a model: the record first, so that no instance is started while the last ones stop."""
        async with self._ledger.lock:
            spec = self.find(request.model)
            self._check_stopped(spec.name, force=request.force)
            (checked,) = await self._ledger.check([Edit(spec.name, None, request.revision)])
            await self._ledger.write_and_publish(checked, by)
        return ModelDeleted(name=spec.name, stopped=await self._wait_until_stopped(spec.name))

    async def apply(self, request: ApplyModels, by: Role) -> ModelsApplied:
        """All changes, or none if one is refused."""
        async with self._ledger.lock:
            deletions = [(self.find(deletion.model).name, deletion) for deletion in request.delete]
            for name, deletion in deletions:
                self._check_stopped(name, force=deletion.force)
            edits = [Edit(model.name, spec_of(model), model.revision) for model in request.models]
            edits += [Edit(name, None, deletion.revision) for name, deletion in deletions]
            check_distinct([edit.name for edit in edits])
            checked = [edit for edit in await self._ledger.check(edits) if edit.has_changes]
            for edit in () if request.dry_run else checked:
                await self._ledger.write_and_publish(edit, by)
        stored = tuple(edit.name for edit in checked if edit.after is not None)
        deleted = tuple(edit.name for edit in checked if edit.after is None)
        if not request.dry_run:
            await asyncio.gather(*map(self._wait_until_stopped, deleted))
        return ModelsApplied(stored=stored, deleted=deleted)

    async def history(self, ref: ModelRef) -> ModelHistory:
        """The stored revisions of a model; by its name also after its deletion."""
        name, revisions = await self._revisions(ref.model)
        history = tuple(
            ModelRevision(revision=entry.revision, at=entry.at, by=entry.by, spec=entry.value)
            for entry in revisions
        )
        return ModelHistory(model=name, revisions=history)

    async def undo(self, request: UndoModel, by: Role) -> ModelStored:
        """Put an earlier spec of a model as a new revision: undo of an undo is redo."""
        async with self._ledger.lock:
            name, revisions = await self._revisions(request.model)
            return await self._store(earlier(name, revisions, request.to), request.revision, by)

    async def _revisions(self, name: str) -> tuple[str, list[Revision[ModelSpec]]]:
        spec = find_model(name, self._models.values)
        current = spec.name if spec else name
        revisions = await read_revisions(self._bus, buckets.MODELS, key_of(current))
        if not revisions:
            raise ModelNotFound(f"The registry remembers no model {name!r}.", param="model")
        return current, revisions

    def _live(self, model: str) -> set[str]:
        own = (instance for instance in self._instances.values.values() if instance.model == model)
        return {instance.instance for instance in own if instance.state in LIVE}

    def _check_stopped(self, model: str, *, force: bool) -> None:
        if not force and (live := self._live(model)):
            raise Conflict(
                f"{model} is running ({', '.join(sorted(live))}). "
                "Stop it first, or use force to have it drained and stopped.",
                param="force",
            )

    async def _wait_until_stopped(self, model: str) -> tuple[str, ...]:
        """The ids of the instances that it waited for: the scheduler stops those of a deleted model."""
        stopped: set[str] = set()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while live := self._live(model):
                    stopped |= live
                    await self._instances.until(lambda _: self._live(model) != live)
        except TimeoutError:
            raise DeadlineExceeded(f"{model} is out of the registry, but not yet stopped.") from None
        return tuple(sorted(stopped))
