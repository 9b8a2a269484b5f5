"""Registry commands and events.

`revision` in a request is what the caller saw: the change is refused if the model has another by now. 0 means
that none may exist yet; None accepts any revision.
"""

from enum import StrEnum
from typing import Any

from schemas.base import Record
from schemas.models import Mode, ModelSpec


class ModelRecord(Record):
    """A model as the registry has it; `revision` is what compare-and-set refers to."""

    spec: ModelSpec
    revision: int


class ListModels(Record):
    """Which models: all, or those of one mode."""

    mode: Mode | None = None


class ModelList(Record):
    """Models by name."""

    models: tuple[ModelRecord, ...]


class PutModel(ModelSpec):
    """A whole spec, new or in place of the one before."""

    revision: int | None = None


class PatchModel(Record):
    """Some fields of a spec."""

    model: str
    patch: dict[str, Any]
    """A JSON merge patch (RFC 7386): what is null goes back to its default."""
    revision: int | None = None


class RenameModel(Record):
    """Another name for a model."""

    model: str
    name: str
    keep_alias: bool = False
    """The old name remains as an alias."""
    force: bool = False
    """Drain and stop its instances, which serve the old name; otherwise none may be running."""
    revision: int | None = None


class DeleteModel(Record):
    """Out of the registry; the files stay."""

    model: str
    force: bool = False
    """Drain and stop its instances; otherwise none may be running."""
    revision: int | None = None


class UndoModel(Record):
    """Back to an earlier spec; a deleted model comes back."""

    model: str
    to: int | None = None
    """A revision of its history; None: the newest that differs from the current one."""
    revision: int | None = None


class ApplyModels(Record):
    """Many changes at once: all of them are checked together, and one that is refused refuses all."""

    models: tuple[PutModel, ...] = ()
    delete: tuple[DeleteModel, ...] = ()
    dry_run: bool = False
    """Check, and change nothing."""


class ModelDeleted(Record):
    """The model is deleted from the registry, and these instances have stopped."""

    name: str
    stopped: tuple[str, ...] = ()


class ModelsApplied(Record):
    """The changes made, or planned by a dry run; unchanged models are in neither."""

    stored: tuple[str, ...]
    deleted: tuple[str, ...]


class ModelRevision(Record):
    """One change of a model."""

    revision: int
    at: float
    """Unix seconds."""
    by: str
    """The role that sent the command; HTTP clients appear as the gateway."""
    spec: ModelSpec | None = None
    """The spec from then on; None: the model was deleted or renamed."""


class ModelHistory(Record):
    """The retained revisions of a model, newest first."""

    model: str
    revisions: tuple[ModelRevision, ...]


class ModelChange(StrEnum):
    """The kind of a change."""

    PUT = "put"
    DELETED = "deleted"
    RENAMED = "renamed"


class ModelChanged(Record):
    """A model was put, deleted or renamed."""

    revision: int
    by: str
    """The role that sent the command."""
    before: ModelSpec | None = None
    """None: it is new."""
    after: ModelSpec | None = None
    """None: it was deleted."""
