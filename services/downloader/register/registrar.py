"""Registers models: after a download, and from files in a store."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import model_key
from schemas.downloads import Download, DownloadState
from schemas.errors import (
    BadRequest,
    BrokerUnavailable,
    Conflict,
    DeadlineExceeded,
    ModelNotFound,
    ServiceUnavailable,
    YardError,
)
from schemas.hub import NO_MMPROJ
from schemas.instances import Node
from schemas.models import ModelRef, ModelSource, ModelSpec, ModelStored, find_model
from schemas.registry import PatchModel, PutModel, Registered, RegisterFiles
from schemas.subject import Command
from services.downloader.library.library import NodeLibrary
from services.downloader.reference import parse_reference
from services.downloader.register.facts import ModelFacts, read_facts
from services.downloader.register.proposal import name_of_path, propose
from services.downloader.worker.messages import Resolved

T = TypeVar("T")
R = TypeVar("R")
_TIMEOUT_S = 30.0
_PAUSE_S = 0.1
_TRIES = 5


@dataclass
class Registrar:
    """Proposes and registers models, from the records of nodes, models and downloads."""

    _bus: Bus
    _settings: Settings
    _nodes: BucketCache[Node]
    _library: NodeLibrary

    def check_names(self, download: Download) -> None:
        """Conflict where a name belongs to a model of other files, before the download starts."""
        if not download.register:
            return
        repo = parse_reference(download.reference).repo
        source = ModelSource(repo=repo, revision="")
        proposed = ModelSpec(name=download.model, path=repo, source=source)
        before = find_model(download.model, self._library.models.values)
        if before is not None and (before.name != download.model or not is_same_model(before, proposed)):
            raise _name_conflict(download.model, before, "name")
        for alias in download.overrides.aliases:
            owner = find_model(alias, self._library.models.values)
            if owner is not None and owner.name != download.model:
                raise _name_conflict(alias, owner, "overrides")

    async def register_download(self, download: Download, resolved: Resolved) -> None:
        """Register the model of a finished download, if it is one and was requested."""
        if not download.register or resolved.model_path is None:
            return
        repo = parse_reference(download.reference).repo
        choice = download.choice
        facts = await asyncio.to_thread(
            read_facts,
            self._settings.models,
            str(PurePosixPath(repo, resolved.model_path)),
            mmproj=f"{repo}/{resolved.mmproj_path}" if resolved.mmproj_path else None,
            with_mmproj=(choice.mmproj or "").lower() != NO_MMPROJ and not choice.include,
            task=resolved.task,
            source=ModelSource(repo=repo, revision=resolved.commit, quant=resolved.quant),
        )
        proposal = propose(facts, download.model, download.overrides, self._nodes.values.values())
        await register_model(self._bus, proposal.spec, proposal.chosen)

    async def on_register(self, request: RegisterFiles) -> Registered:
        """Register a model of files in a store; with `dry_run` only propose it."""
        path, source = self._resolve(request.path.strip().rstrip("/"))
        store = self._settings.store_of(path)
        facts = await asyncio.to_thread(read_facts, store, path, source=source)
        proposal = propose(facts, _name(request, facts), request.overrides, self._nodes.values.values())
        before = self._library.models.values.get(model_key(proposal.spec.name))
        retained = retained_fields(before, proposal.spec, proposal.chosen) if before else ()
        registered = Registered(spec=proposal.spec, reasons=proposal.reasons, kept=retained)
        if request.dry_run:
            return registered
        stored = await register_model(self._bus, proposal.spec, proposal.chosen)
        return msgspec.structs.replace(registered, revision=stored.revision)

    def _resolve(self, named: str) -> tuple[str, ModelSource | None]:
        """The path of a path, entry or entry name, and the source of its files."""
        entries = [entry for _, report in self._library.reports() for entry in report.entries.values()]
        downloads = self._library.downloads.values.values()
        for entry in entries:
            if named in (entry.key, entry.entry, entry.path):
                return entry.path, entry.source or source_of(entry.path, downloads)
        same_name = [entry for entry in entries if entry.name == named]
        path = same_name[0].path if len(same_name) == 1 else named
        return path, source_of(path, downloads)


def source_of(path: str, downloads: Iterable[Download]) -> ModelSource | None:
    """The source in the newest finished download of these files."""
    for download in sorted(downloads, key=lambda download: -download.changed_at):
        if download.state is not DownloadState.FINISHED or download.revision is None:
            continue
        repo = parse_reference(download.reference).repo
        if path == repo or path.removeprefix(f"{repo}/") in download.files:
            return ModelSource(repo=repo, revision=download.revision, quant=download.quant)
    return None


def _name_conflict(name: str, owner: ModelSpec, param: str) -> Conflict:
    return Conflict(
        f"The name {name} belongs to the model {owner.name} already, made of {owner.path}; give another.",
        param=param,
    )


def _name(request: RegisterFiles, facts: ModelFacts) -> str:
    if request.name is not None:
        return request.name
    try:
        return name_of_path(facts.path)
    except ValueError as error:
        raise BadRequest(f"No model name can be made of {facts.path}; give one.", param="name") from error


async def register_model(bus: Bus, spec: ModelSpec, chosen: frozenset[str] = frozenset()) -> ModelStored:
    """Create a model, or update the model of this name.

    An update changes the paths of its files and the `chosen` fields; Conflict if its files are others.
    """
    failure: YardError = Conflict(f"{spec.name} was changed by others {_TRIES} times in a row; try again.")
    for _ in range(_TRIES):
        try:
            return await _call(bus, subjects.MODEL_PUT, PutModel(**msgspec.structs.asdict(spec), revision=0))
        except Conflict as error:
            conflict = error
        try:
            record = await _call(bus, subjects.MODEL_GET, ModelRef(model=spec.name))
        except ModelNotFound:
            raise conflict from None
        patch = patch_of(record.spec, spec, chosen)
        if not patch:
            return ModelStored(name=spec.name, revision=record.revision)
        request = PatchModel(model=spec.name, patch=patch, revision=record.revision)
        try:
            return await _call(bus, subjects.MODEL_PATCH, request)
        except (Conflict, ModelNotFound) as error:
            failure = error  # changed or deleted since it was read
    raise failure


def patch_of(before: ModelSpec, proposed: ModelSpec, chosen: frozenset[str]) -> dict[str, Any]:
    """The patch from `before` to `proposed`; Conflict if their files are not the same model."""
    hint = f"The files are here: `yard register {proposed.path} --name NAME`."
    if before.name != proposed.name:
        raise Conflict(
            f"The name {proposed.name} is an alias of {before.name} already; give another name. {hint}",
            param="name",
        )
    if not is_same_model(before, proposed):
        raise Conflict(
            f"There is a model {proposed.name} already, of {before.path}; give another name. {hint}",
            param="name",
        )
    fields = {"path", "source"} | chosen
    if before.mmproj is not None and proposed.mmproj is not None:
        # A projector that a person has removed stays removed.
        fields.add("mmproj")
    old, new = _fields(before), _fields(proposed)
    return {
        field: new[field] for field in sorted(fields) if new[field] is not None and new[field] != old[field]
    }


def is_same_model(before: ModelSpec, proposed: ModelSpec) -> bool:
    """Whether both specs are of one repository, or at one path."""
    repo = proposed.source.repo if proposed.source else None
    return before.path in (proposed.path, repo) or (repo is not None and before.path.startswith(f"{repo}/"))


def retained_fields(before: ModelSpec, proposed: ModelSpec, chosen: frozenset[str]) -> tuple[str, ...]:
    """Fields where `before` differs from `proposed` and stays."""
    changing = {"name", *patch_of(before, proposed, chosen)}
    old, new = _fields(before), _fields(proposed)
    return tuple(field for field in new if field not in changing and new[field] != old[field])


def _fields(spec: ModelSpec) -> Mapping[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    return fields


async def _call(bus: Bus, command: Command[T, R], request: T) -> R:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return await bus.call(command, request)
        except (ServiceUnavailable, DeadlineExceeded, BrokerUnavailable):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_S)
