"""Registry commands and events.

`revision` in a request is what the caller saw: the change is refused if the model has another by now. 0 means
that none may exist yet; None accepts any revision.
"""

from enum import StrEnum
from typing import Any

from schemas.base import Record, check_model_name, check_token
from schemas.models import Mode, ModelSpec
from schemas.profiles import check_n_ctx


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


class ModelOverrides(Record):
    """Fields of a new model that the user sets; the rest is derived from its files."""

    aliases: tuple[str, ...] = ()
    """Other names of the model."""
    mode: Mode | None = None
    """The purpose of the model; None: guessed."""
    n_ctx: int | None = None
    """Context in tokens; None: the largest that fits."""
    engine: str | None = None
    """The engine that runs it; None: by the format of its files."""

    def __post_init__(self) -> None:
        for alias in self.aliases:
            check_model_name(alias)
        check_n_ctx(self.n_ctx)


class RegisterFiles(Record):
    """Make a model of files in a store."""

    path: str
    """Relative to the store: a GGUF file, or a folder of safetensors; or an entry of the library."""
    name: str | None = None
    """The model's name; None: after the files."""
    overrides: ModelOverrides = ModelOverrides()
    dry_run: bool = False
    """Guess, and change nothing."""

    def __post_init__(self) -> None:
        if self.name is not None:
            check_model_name(self.name)


class GuessedField(Record):
    """Why a field of a model is as it is."""

    field: str
    value: str
    reason: str
    """The end of a sentence, such as `its header states …`."""


class Registered(Record):
    """The model that was made, or would be."""

    spec: ModelSpec
    reasons: tuple[GuessedField, ...]
    """For every field that was guessed."""
    revision: int | None = None
    """The model's revision; None: it was a dry run."""
    kept: tuple[str, ...] = ()
    """Fields of an existing model that keep the user's values."""


class GroupKind(StrEnum):
    """The constraint of a group."""

    APART = "apart"
    """At most one of them runs at a time."""
    TOGETHER = "together"
    """Starting one starts all of them, and they are stopped together."""


class ModelGroup(Record):
    """A rule about several models, by their names."""

    name: str
    kind: GroupKind
    models: tuple[str, ...]

    def __post_init__(self) -> None:
        check_token(self.name)
        for model in self.models:
            check_model_name(model)
        if len(set(self.models)) < 2:
            raise ValueError("a group has at least two different models")


class GroupRef(Record):
    """Which group."""

    name: str


class ListGroups(Record):
    """Lists all groups."""


class GroupList(Record):
    """The groups, by name."""

    groups: tuple[ModelGroup, ...] = ()


class GroupStored(Record):
    """The group was stored or deleted."""

    name: str
