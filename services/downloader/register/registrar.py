"""Registers models: after a download, and from files in a store."""

import asyncio
from collections.abc import Iterable
from pathlib import PurePosixPath

from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from modelyard.host.settings import Settings
from schemas.base import model_key
from schemas.downloads import Download, DownloadState
from schemas.errors import BadRequest, Conflict
from schemas.hub import NO_MMPROJ
from schemas.instances import Node
from schemas.models import ModelSource, ModelSpec, find_model
from schemas.registering import Registered, RegisterFiles
from services.downloader.library.library import NodeLibrary
from services.downloader.reference import parse_reference
from services.downloader.register.facts import ModelFacts, read_facts
from services.downloader.register.proposal import ModelProposal, name_of_path, propose
from services.downloader.register.registry import is_same_model, register_model, retained_fields
from services.downloader.worker.messages import Finished


class Registrar:
    """Proposes and registers models, from the records of nodes, models and downloads."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        nodes: BucketCache[Node],
        models: BucketCache[ModelSpec],
        downloads: BucketCache[Download],
        library: NodeLibrary,
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._nodes = nodes
        self._models = models
        self._downloads = downloads
        self._library = library

    def check_names(self, download: Download) -> None:
        """Conflict where a name belongs to a model of other files, before the download starts."""
        if not download.register:
            return
        repo = parse_reference(download.reference).repo
        source = ModelSource(repo=repo, revision="")
        proposed = ModelSpec(name=download.model, path=repo, source=source)
        before = find_model(download.model, self._models.values)
        if before is not None and (before.name != download.model or not is_same_model(before, proposed)):
            raise _name_conflict(download.model, before, "name")
        for alias in download.overrides.aliases:
            owner = find_model(alias, self._models.values)
            if owner is not None and owner.name != download.model:
                raise _name_conflict(alias, owner, "overrides")

    async def register_download(self, download: Download, finished: Finished) -> None:
        """Register the model of a finished download, if it is one and was requested."""
        if not download.register or finished.model_path is None:
            return
        repo = parse_reference(download.reference).repo
        choice = download.choice
        facts = await asyncio.to_thread(
            read_facts,
            self._settings.models,
            str(PurePosixPath(repo, finished.model_path)),
            mmproj=f"{repo}/{finished.mmproj_path}" if finished.mmproj_path else None,
            with_mmproj=(choice.mmproj or "").lower() != NO_MMPROJ and not choice.include,
            task=finished.task,
            source=ModelSource(repo=repo, revision=finished.commit, quant=finished.quant),
        )
        proposal = propose(facts, download.model, download.overrides, self._nodes.values.values())
        await register_model(self._bus, proposal.spec, proposal.chosen)

    async def on_register(self, request: RegisterFiles) -> Registered:
        """Register a model of files in a store; with `dry_run` only propose it."""
        path, source = self._resolve(request.path.strip().rstrip("/"))
        store = self._settings.store_of(path)
        facts = await asyncio.to_thread(read_facts, store, path, source=source)
        proposal = propose(facts, _name(request, facts), request.overrides, self._nodes.values.values())
        retained = self._retained(proposal)
        if request.dry_run:
            return Registered(spec=proposal.spec, reasons=proposal.reasons, kept=retained)
        stored = await register_model(self._bus, proposal.spec, proposal.chosen)
        return Registered(
            spec=proposal.spec, reasons=proposal.reasons, revision=stored.revision, kept=retained
        )

    def _resolve(self, named: str) -> tuple[str, ModelSource | None]:
        """The path of a path, entry or entry name, and the source of its files."""
        entries = [entry for _, report in self._library.reports() for entry in report.entries.values()]
        for entry in entries:
            if named in (entry.key, entry.entry, entry.path):
                return entry.path, entry.source or source_of(entry.path, self._downloads.values.values())
        same_name = [entry for entry in entries if entry.name == named]
        path = same_name[0].path if len(same_name) == 1 else named
        return path, source_of(path, self._downloads.values.values())

    def _retained(self, proposal: ModelProposal) -> tuple[str, ...]:
        before = self._models.values.get(model_key(proposal.spec.name))
        return retained_fields(before, proposal.spec, proposal.chosen) if before else ()


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
