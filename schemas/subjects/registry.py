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
from schemas.subject import Command, Subject

MODEL_PUT = Command(
    "yard.command.model.put",
    PutModel,
    ModelStored,
    callers=(*CALLERS, DOWNLOADER),
    server=SUPERVISOR,
    summary="Create or change a model in the registry.",
    changes="name",
)
MODEL_GET = Command(
    "yard.command.model.get",
    ModelRef,
    ModelRecord,
    callers=(*CALLERS, DOWNLOADER),
    server=SUPERVISOR,
    summary="One model of the registry, by name or alias.",
)
MODEL_LIST = Command(
    "yard.command.model.list",
    ListModels,
    ModelList,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="All models of the registry.",
)
MODEL_PATCH = Command(
    "yard.command.model.patch",
    PatchModel,
    ModelStored,
    callers=(*CALLERS, DOWNLOADER),
    server=SUPERVISOR,
    summary="Change some fields of a model.",
    changes="model",
)
MODEL_RENAME = Command(
    "yard.command.model.rename",
    RenameModel,
    ModelStored,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Rename a model.",
    timeout_s=DRAIN_S,
    changes="model",
)
MODEL_DELETE = Command(
    "yard.command.model.delete",
    DeleteModel,
    ModelDeleted,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Delete a model from the registry; its files remain.",
    timeout_s=DRAIN_S,
    changes="model",
)
MODEL_APPLY = Command(
    "yard.command.model.apply",
    ApplyModels,
    ModelsApplied,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Create, change and delete many models, atomically.",
    timeout_s=DRAIN_S,
    changes="models",
)
MODEL_HISTORY = Command(
    "yard.command.model.history",
    ModelRef,
    ModelHistory,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="The last revisions of a model, including a deleted one.",
)
MODEL_UNDO = Command(
    "yard.command.model.undo",
    UndoModel,
    ModelStored,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Restore an earlier revision of a model, including a deleted one.",
    changes="model",
)
MODEL_START = Command(
    "yard.command.model.start",
    ModelRef,
    ModelStarting,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Start a model; accepted at once if it is running or waiting.",
    changes="model",
)
MODEL_STOP = Command(
    "yard.command.model.stop",
    ModelRef,
    ModelStopping,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Drain and stop every instance of a model.",
    changes="model",
)
MODEL_PLAN = Command(
    "yard.command.model.plan",
    PlanQuery,
    PlanReply,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="What would happen if a model were requested now, without side effects.",
)
GROUP_PUT = Command(
    "yard.command.group.put",
    ModelGroup,
    GroupStored,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Let models run together, or never at the same time.",
    changes="name",
)
GROUP_DELETE = Command(
    "yard.command.group.delete",
    GroupRef,
    GroupStored,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="Delete a group; its models remain.",
    changes="name",
)
GROUP_LIST = Command(
    "yard.command.group.list",
    ListGroups,
    GroupList,
    callers=CALLERS,
    server=SUPERVISOR,
    summary="All groups of models.",
)
MODEL_CHANGED = Subject(
    "yard.event.model.{model}.{change}",
    ModelChanged,
    publish=(SUPERVISOR,),
    subscribe=(*WATCHERS, RUNNER, MONITOR),
    summary="A model was put, deleted or renamed; `model` is its previous name.",
)
