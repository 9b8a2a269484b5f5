"""Writes to the registry: what a spec must be to join the others, compare-and-set, and the events."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.reads import Revision
from modelyard.bus.records import BucketCache, RecordHead, Records
from modelyard.bus.tasks import Tasks
from modelyard.host.paths import resolve_inside
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role, check_model_name, model_key
from schemas.errors import BadRequest, Conflict, ModelNotFound, NotFound
from schemas.models import ModelSpec, find_model
from schemas.registry import ModelChange, ModelChanged, PutModel

MAX_SPEC_BYTES = 256 * 1024
"""An event has a spec twice, the history twenty times, and a list of models has all of them."""


def spec_of(request: PutModel) -> ModelSpec:
    """The spec alone, without the expected revision."""
    return ModelSpec(**{field: getattr(request, field) for field in ModelSpec.__struct_fields__})


def renamed(old: ModelSpec, name: str, *, keep_alias: bool) -> ModelSpec:
    """The spec under another name; the first alias, which lists show, never becomes the old name by that."""
    aliases = tuple(alias for alias in old.aliases if alias not in (name, old.name))
    if keep_alias:
        aliases = (*(aliases or (name,)), old.name)
    return msgspec.structs.replace(old, name=name, aliases=aliases)


def check_new_name(name: str, old: ModelSpec, models: Mapping[str, ModelSpec]) -> None:
    """BadRequest or Conflict if `old` cannot be called `name`."""
    try:
        check_model_name(name)
    except ValueError as error:
        raise BadRequest(f"{error}.", param="name") from error
    owner = find_model(name, dict(models))
    if name == old.name or (owner is not None and owner.name != old.name):
        raise Conflict(
            f"The name {name!r} belongs to the model {owner and owner.name!r} already.", param="name"
        )


def earlier(name: str, revisions: Sequence[Revision[ModelSpec]], to: int | None) -> ModelSpec:
    """The spec of revision `to`, or else the newest that differs from the present one."""
    specs = {entry.revision: entry.value for entry in revisions if entry.value is not None}
    if to is not None and to in specs:
        return specs[to]
    if to is not None:
        stored = ", ".join(map(str, specs)) or "none"
        raise NotFound(f"{name} has no spec of revision {to} any more; stored are {stored}.", param="to")
    current = revisions[0].value
    different = (entry.value for entry in revisions[1:] if entry.value not in (None, current))
    if (spec := next(different, None)) is None:
        raise Conflict(f"{name} has no earlier spec to go back to.", param="model")
    return spec


def check_distinct(names: Sequence[str]) -> None:
    """BadRequest if one model is to be changed twice at once."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadRequest(f"{twice} is listed twice; list each model once.")


def key_of(name: str) -> str:
    """The key of a name from a command; ModelNotFound if no model can be called so."""
    try:
        return model_key(name)
    except ValueError as error:
        raise ModelNotFound(f"{error}.", param="model") from error


def check_spec(spec: ModelSpec, models: Mapping[str, ModelSpec], store: Path) -> None:
    """BadRequest or Conflict if `spec` cannot be a model among `models`: its names are its own, its files
    are inside the store."""
    if (size := len(msgspec.json.encode(spec))) > MAX_SPEC_BYTES:
        raise BadRequest(f"{spec.name} has {size} bytes as JSON; a model has at most {MAX_SPEC_BYTES}.")
    files = {"path": spec.path, "mmproj": spec.mmproj, "chat_template": spec.chat_template}
    files |= {f"loras[{index}].path": lora.path for index, lora in enumerate(spec.loras)}
    for field, path in files.items():
        try:
            if path is not None:
                resolve_inside(store, path)
        except ValueError as error:
            raise BadRequest(str(error), param=field) from error
    if (conflict := name_conflict(spec, models)) is not None:
        raise Conflict(conflict, param="aliases")


def name_conflict(spec: ModelSpec, models: Mapping[str, ModelSpec]) -> str | None:
    """Why the names of `spec` cannot be its own, or None. Its name may be among its aliases."""
    twice = next((alias for alias in spec.aliases if spec.aliases.count(alias) > 1), None)
    if twice is not None:
        return f"{spec.name} has the alias {twice!r} twice."
    for other in models.values():
        if other.name == spec.name:
            continue
        shared = {spec.name, *spec.aliases} & {other.name, *other.aliases}
        if shared:
            return f"The name {sorted(shared)[0]!r} belongs to the model {other.name!r} already."
    return None


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
