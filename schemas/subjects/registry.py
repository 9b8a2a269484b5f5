"""The registry of models, and groups of models."""

from schemas.base import CALLERS, DOWNLOADER, DRAIN_S, MONITOR, RUNNER, SUPERVISOR, WATCHERS
from schemas.models import ModelRef, ModelStarting, ModelStopping, ModelStored
from schemas.placement import PlanQuery, PlanReply
from schemas.registry import (
    ApplyModels,
    DeleteModel,
    GroupList,
    GroupRef,
    GroupStored,
    ListGroups,
    ListModels,
    ModelChanged,
    ModelDeleted,
    ModelGroup,
    ModelHistory,
    ModelList,
    ModelRecord,
    ModelsApplied,
    PatchModel,
    PutModel,
    RenameModel,
    UndoModel,
)
from schemas.subject import CommandDeclarer, Subject

_command = CommandDeclarer(SUPERVISOR)
_shared = CommandDeclarer(SUPERVISOR, callers=(*CALLERS, DOWNLOADER))
_draining = CommandDeclarer(SUPERVISOR, timeout_s=DRAIN_S)

MODEL_PUT = _shared.change("model.put", PutModel, ModelStored, "Create or change a model in the registry.")
MODEL_GET = _shared("model.get", ModelRef, ModelRecord, "One model of the registry, by name or alias.")
MODEL_LIST = _command("model.list", ListModels, ModelList, "All models of the registry.")
MODEL_PATCH = _shared.change("model.patch", PatchModel, ModelStored, "Change some fields of a model.")
MODEL_RENAME = _draining.change("model.rename", RenameModel, ModelStored, "Rename a model.")
MODEL_DELETE = _draining.change(
    "model.delete", DeleteModel, ModelDeleted, "Delete a model from the registry; its files remain."
)
MODEL_APPLY = _draining.change(
    "model.apply", ApplyModels, ModelsApplied, "Create, change and delete many models, atomically."
)
MODEL_HISTORY = _command(
    "model.history", ModelRef, ModelHistory, "The last revisions of a model, including a deleted one."
)
MODEL_UNDO = _command.change(
    "model.undo", UndoModel, ModelStored, "Restore an earlier revision of a model, including a deleted one."
)
MODEL_START = _command.change(
    "model.start", ModelRef, ModelStarting, "Start a model; accepted at once if it is running or waiting."
)
MODEL_STOP = _command.change(
    "model.stop", ModelRef, ModelStopping, "Drain and stop every instance of a model."
)
MODEL_PLAN = _command(
    "model.plan",
    PlanQuery,
    PlanReply,
    "What would happen if a model were requested now, without side effects.",
)
GROUP_PUT = _command.change(
    "group.put", ModelGroup, GroupStored, "Let models run together, or never at the same time."
)
GROUP_DELETE = _command.change("group.delete", GroupRef, GroupStored, "Delete a group; its models remain.")
GROUP_LIST = _command("group.list", ListGroups, GroupList, "All groups of models.")
MODEL_CHANGED = Subject(
    "yard.event.model.{model}.{change}",
    ModelChanged,
    "A model was put, deleted or renamed; `model` is its previous name.",
    publish=(SUPERVISOR,),
    subscribe=(*WATCHERS, RUNNER, MONITOR),
)
