"""The registry: every question about models, and every change of them."""

import asyncio

from modelyard.bus.connection import Bus
from modelyard.bus.reads import Revision, read_revisions
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.documents import patched
from modelyard.host.settings import Settings
from schemas import buckets
from schemas.base import Role, model_key
from schemas.errors import ModelNotFound
from schemas.instances import Instance
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
from services.supervisor.changes import check_new_name, check_once, earlier, key_of, plain, renamed
from services.supervisor.farewell import Farewell
from services.supervisor.groups import Groups
from services.supervisor.ledger import Edit, Ledger


class Registry:
    """Answers the `model` commands, but for start and stop."""

    def __init__(
        self,
        bus: Bus,
        tasks: Tasks,
        settings: Settings,
        models: BucketCache[ModelSpec],
        instances: BucketCache[Instance],
        groups: Groups,
    ) -> None:
        self._bus = bus
        self._models = models
        self._groups = groups
        self._ledger = Ledger(bus, tasks, settings, models)
        self._farewell = Farewell(instances)

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
        """One model, by name or alias."""
        return self._record(self.find(ref.model))

    async def models(self, wanted: ListModels) -> ModelList:
        """Every model, or those of one mode."""
        specs = sorted(self._models.values.values(), key=lambda spec: spec.name)
        return ModelList(
            models=tuple(self._record(spec) for spec in specs if wanted.mode in (None, spec.mode))
        )

    def _record(self, spec: ModelSpec) -> ModelRecord:
        return ModelRecord(spec=spec, revision=self.revision(spec.name))

    async def put(self, asked: PutModel, by: Role) -> ModelStored:
        """Store a new or changed model. BadRequest or Conflict if it cannot be one."""
        async with self._ledger.lock:
            return await self._store(plain(asked), asked.revision, by)

    async def patch(self, asked: PatchModel, by: Role) -> ModelStored:
        """Change some fields; what comes of it is checked as a whole."""
        async with self._ledger.lock:
            before = self._record(self.find(asked.model))
            # The patch is of what the mirror shows: if the broker has a newer one by now, it is refused.
            revision = before.revision if asked.revision is None else asked.revision
            return await self._store(patched(before.spec, asked.patch), revision, by)

    async def _store(self, spec: ModelSpec, expected: int | None, by: Role) -> ModelStored:
        (checked,) = await self._ledger.check([Edit(spec.name, spec, expected)])
        return ModelStored(name=spec.name, revision=await self._ledger.write_and_tell(checked, by))

    async def rename(self, asked: RenameModel, by: Role) -> ModelStored:
        """Give a model another name: the new record first, so that there is never none."""
        async with self._ledger.lock:
            old = self.find(asked.model)
            check_new_name(asked.name, old, self._models.values)
            self._farewell.check(old.name, force=asked.force)
            new = renamed(old, asked.name, keep_alias=asked.keep_alias)
            edits = [Edit(old.name, None, asked.revision), Edit(new.name, new, 0)]
            gone, made = await self._ledger.check(edits)
            revision = await self._ledger.write(made, by)
            await self._groups.follow(old.name, new.name)
            await self._ledger.write(gone, by)
            changed = ModelChanged(revision=revision, by=by, before=gone.before, after=new)
            self._ledger.tell(old.name, ModelChange.RENAMED, changed)
        await self._farewell.until_gone(old.name)
        return ModelStored(name=new.name, revision=revision)

    async def delete(self, asked: DeleteModel, by: Role) -> ModelDeleted:
        """Take a model out. The record goes before its instances end: nothing starts another meanwhile."""
        async with self._ledger.lock:
            spec = self.find(asked.model)
            self._farewell.check(spec.name, force=asked.force)
            (checked,) = await self._ledger.check([Edit(spec.name, None, asked.revision)])
            await self._ledger.write_and_tell(checked, by)
        return ModelDeleted(name=spec.name, stopped=await self._farewell.until_gone(spec.name))

    async def apply(self, asked: ApplyModels, by: Role) -> ModelsApplied:
        """All of it, or nothing if one change is refused."""
        async with self._ledger.lock:
            leaving = [(self.find(each.model).name, each) for each in asked.delete]
            for name, order in leaving:
                self._farewell.check(name, force=order.force)
            edits = [Edit(each.name, plain(each), each.revision) for each in asked.models]
            edits += [Edit(name, None, order.revision) for name, order in leaving]
            check_once([edit.name for edit in edits])
            checked = [each for each in await self._ledger.check(edits) if each.changes]
            for each in () if asked.dry_run else checked:
                await self._ledger.write_and_tell(each, by)
        stored = tuple(each.name for each in checked if each.after is not None)
        deleted = tuple(each.name for each in checked if each.after is None)
        if not asked.dry_run:
            await asyncio.gather(*map(self._farewell.until_gone, deleted))
        return ModelsApplied(stored=stored, deleted=deleted)

    async def history(self, ref: ModelRef) -> ModelHistory:
        """What is remembered of a model; by its name also after its deletion."""
        name, revisions = await self._revisions(ref.model)
        return ModelHistory(
            model=name,
            revisions=tuple(
                ModelRevision(revision=each.revision, at=each.at, by=each.by, spec=each.value)
                for each in revisions
            ),
        )

    async def undo(self, asked: UndoModel, by: Role) -> ModelStored:
        """Put an earlier spec of a model, as a new revision: to undo that is to redo."""
        async with self._ledger.lock:
            name, revisions = await self._revisions(asked.model)
            return await self._store(earlier(name, revisions, asked.to), asked.revision, by)

    async def _revisions(self, name: str) -> tuple[str, list[Revision[ModelSpec]]]:
        spec = find_model(name, self._models.values)
        known = spec.name if spec else name
        revisions = await read_revisions(self._bus, buckets.MODELS, key_of(known))
        if not revisions:
            raise ModelNotFound(f"The registry remembers no model {name!r}.", param="model")
        return known, revisions
