"""Writing the registry: checked against all of it, by compare-and-set, told as events."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from modelyard.bus import audit
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache, BucketStore
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role, model_key
from schemas.errors import Conflict, ModelNotFound
from schemas.models import ModelSpec
from schemas.registry import ModelChange, ModelChanged
from services.supervisor.names import check_spec

_SEEN_S = 2.0
"""How long our own mirror may take to show what we wrote; the next check would not know it else."""


class Edit(NamedTuple):
    """One model as it shall be; None: gone. `expected` is the revision that the caller saw."""

    name: str
    after: ModelSpec | None
    expected: int | None = None


class Checked(NamedTuple):
    """An edit that may be written, and what it replaces."""

    name: str
    before: ModelSpec | None
    after: ModelSpec | None
    last: int
    """The newest revision of its key, be that a deletion."""

    @property
    def changes(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.after


class Ledger:
    """The one writer of `models`. Callers hold `lock` from the check to the write."""

    def __init__(self, bus: Bus, tasks: Tasks, settings: Settings, models: BucketCache[ModelSpec]) -> None:
        self.lock = asyncio.Lock()
        self._bus = bus
        self._tasks = tasks
        self._settings = settings
        self._models = models
        self._store = BucketStore(bus, buckets.MODELS)

    async def check(self, edits: Sequence[Edit]) -> list[Checked]:
        """Every edit with what it replaces; the first that may not be is raised, and nothing is written."""
        checked = [await self._look_up(edit) for edit in edits]
        models = dict(self._models.values)
        for edit in checked:
            models.pop(model_key(edit.name), None)
            if edit.after is not None:
                models[model_key(edit.name)] = edit.after
        for edit in checked:
            if edit.after is not None:
                check_spec(edit.after, models, self._settings.store_of(edit.after.path))
        return checked

    async def _look_up(self, edit: Edit) -> Checked:
        before, last = await self._store.head(model_key(edit.name))
        if edit.after is None and before is None:
            raise ModelNotFound(f"There is no model {edit.name!r}.", param="model")
        revision = last if before is not None else 0
        if edit.expected not in (None, revision):
            now = f"has revision {revision}" if revision else "is not there"
            raise Conflict(
                f"{edit.name} {now} now, not revision {edit.expected}: somebody changed it meanwhile. "
                "Read it again and repeat the change.",
                param="revision",
            )
        return Checked(edit.name, before, edit.after, last)

    async def write(self, edit: Checked, by: Role) -> int:
        """Write one edit and return its revision; what is there already is not written again."""
        if not edit.changes:
            return edit.last
        key = model_key(edit.name)
        if edit.after is None:
            revision = await self._store.delete(key, last=edit.last, by=by)
        else:
            revision = await self._store.put(key, edit.after, last=edit.last, by=by)
        audit.changed(f"model {edit.name}", edit.before, edit.after)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SEEN_S):
                await self._models.until(lambda _: self._shows(key, edit.after, revision))
        return revision

    def _shows(self, key: str, after: ModelSpec | None, revision: int) -> bool:
        shown = self._models.revisions.get(key)
        return shown is None if after is None else (shown or 0) >= revision

    async def write_and_tell(self, edit: Checked, by: Role) -> int:
        """As `write`, with the event that belongs to it."""
        revision = await self.write(edit, by)
        if edit.changes:
            change = ModelChange.DELETED if edit.after is None else ModelChange.PUT
            changed = ModelChanged(revision=revision, by=by, before=edit.before, after=edit.after)
            self.tell(edit.name, change, changed)
        return revision

    def tell(self, name: str, change: ModelChange, changed: ModelChanged) -> None:
        """Send the event of a change; `name` is what the model was called before."""
        emitted = self._bus.emit(subjects.MODEL_CHANGED, changed, model=model_key(name), change=change)
        self._tasks.spawn(emitted, f"event model {change}")
