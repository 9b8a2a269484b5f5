"""Writes to the registry: checked against all models, by compare-and-set, and published as events."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, RecordHead, Records
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role, model_key
from schemas.errors import Conflict, ModelNotFound
from schemas.models import ModelSpec
from schemas.registry import ModelChange, ModelChanged
from services.supervisor.registry.changes import check_spec


class Edit(NamedTuple):
    """The spec that a model shall have; None: delete it. `expected` is the revision that the caller saw."""

    name: str
    after: ModelSpec | None
    expected: int | None = None


class CheckedEdit(NamedTuple):
    """An edit that may be written, and the record that it replaces."""

    head: RecordHead[ModelSpec]
    after: ModelSpec | None

    @property
    def name(self) -> str:
        return self.head.name

    @property
    def before(self) -> ModelSpec | None:
        return self.head.value

    @property
    def has_changes(self) -> bool:
        return self.before != self.after


class ModelLedger:
    """The writer of `models`. Callers hold `lock` from the check to the write."""

    def __init__(self, bus: Bus, tasks: Tasks, settings: Settings, models: BucketCache[ModelSpec]) -> None:
        self.lock = asyncio.Lock()
        self._bus = bus
        self._tasks = tasks
        self._settings = settings
        self._records = Records(bus, buckets.MODELS, models, "model", key_of=model_key)

    async def check(self, edits: Sequence[Edit]) -> list[CheckedEdit]:
        """The edits with the records that they replace; raises for the first that is not possible."""
        checked = [CheckedEdit(await self._head(edit), edit.after) for edit in edits]
        models = dict(self._records.values)
        for edit in checked:
            models.pop(model_key(edit.name), None)
            if edit.after is not None:
                models[model_key(edit.name)] = edit.after
        for edit in checked:
            if edit.after is not None:
                check_spec(edit.after, models, self._settings.store_of(edit.after.path))
        return checked

    async def _head(self, edit: Edit) -> RecordHead[ModelSpec]:
        head = await self._records.head(edit.name)
        if edit.after is None and head.value is None:
            raise ModelNotFound(f"There is no model {edit.name!r}.", param="model")
        if edit.expected not in (None, head.revision):
            now = f"has revision {head.revision}" if head.revision else "does not exist"
            raise Conflict(
                f"{edit.name} {now} now, not revision {edit.expected}: it was changed in the meantime. "
                "Read it again and repeat the change.",
                param="revision",
            )
        return head

    async def write(self, edit: CheckedEdit, by: Role) -> int:
        """Write an edit and return its revision; a spec that is stored already is not written again."""
        return (
            await self._records.replace(edit.head, edit.after, by=by) if edit.has_changes else edit.head.last
        )

    async def write_and_publish(self, edit: CheckedEdit, by: Role) -> int:
        """As `write`, with its event."""
        revision = await self.write(edit, by)
        if edit.has_changes:
            change = ModelChange.DELETED if edit.after is None else ModelChange.PUT
            changed = ModelChanged(revision=revision, by=by, before=edit.before, after=edit.after)
            self.publish(edit.name, change, changed)
        return revision

    def publish(self, name: str, change: ModelChange, changed: ModelChanged) -> None:
        """Publish the event of a change; `name` is that before the change."""
        event = self._bus.emit(subjects.MODEL_CHANGED, changed, model=model_key(name), change=change)
        self._tasks.spawn(event, f"event model {change}")
