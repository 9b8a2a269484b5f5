"""Makes models: of what was fetched, and of what a person points at."""

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
from services.downloader.library.library import Library
from services.downloader.reference import parse_reference
from services.downloader.registering.facts import Facts, read_facts
from services.downloader.registering.guess import Proposal, guess
from services.downloader.registering.names import name_of_path
from services.downloader.registering.put import is_same, kept_of, register
from services.downloader.worker.messages import Finished


class Registrar:
    """Guesses and registers, with what is known of the machines and of earlier downloads."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        nodes: BucketCache[Node],
        models: BucketCache[ModelSpec],
        downloads: BucketCache[Download],
        library: Library,
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._nodes = nodes
        self._models = models
        self._downloads = downloads
        self._library = library

    def check_names(self, download: Download) -> None:
        """Conflict where a name belongs to a model of other files: better now than in an hour."""
        if not download.register:
            return
        repo = parse_reference(download.reference).repo
        source = ModelSource(repo=repo, revision="")
        found = ModelSpec(name=download.model, path=repo, source=source)
        before = find_model(download.model, self._models.values)
        if before is not None and (before.name != download.model or not is_same(before, found)):
            raise _taken(download.model, before, "name")
        for alias in download.overrides.aliases:
            owner = find_model(alias, self._models.values)
            if owner is not None and owner.name != download.model:
                raise _taken(alias, owner, "overrides")

    async def fetched(self, download: Download, finished: Finished) -> None:
        """Make the model that a download was for; nothing where it brought none, or nobody wants one."""
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
        proposal = guess(facts, download.model, download.overrides, self._nodes.values.values())
        await register(self._bus, proposal.spec, proposal.said)

    async def on_register(self, asked: RegisterFiles) -> Registered:
        """Make a model of files in the store, or tell what it would be."""
        path, source = self._find(asked.path.strip().rstrip("/"))
        store = self._settings.store_of(path)
        facts = await asyncio.to_thread(read_facts, store, path, source=source)
        proposal = guess(facts, _name(asked, facts), asked.overrides, self._nodes.values.values())
        kept = self._kept(proposal)
        if asked.dry_run:
            return Registered(spec=proposal.spec, reasons=proposal.reasons, kept=kept)
        stored = await register(self._bus, proposal.spec, proposal.said)
        return Registered(spec=proposal.spec, reasons=proposal.reasons, revision=stored.revision, kept=kept)

    def _find(self, named: str) -> tuple[str, ModelSource | None]:
        """The path that somebody means, also by an entry of the library, and where its files came from."""
        ours = [entry for _, survey in self._library.surveys() for entry in survey.entries.values()]
        for entry in ours:
            if named in (entry.key, entry.entry, entry.path):
                return entry.path, entry.source or source_of(entry.path, self._downloads.values.values())
        alike = [entry for entry in ours if entry.name == named]
        path = alike[0].path if len(alike) == 1 else named
        return path, source_of(path, self._downloads.values.values())

    def _kept(self, proposal: Proposal) -> tuple[str, ...]:
        before = self._models.values.get(model_key(proposal.spec.name))
        return kept_of(before, proposal.spec, proposal.said) if before else ()


def source_of(path: str, downloads: Iterable[Download]) -> ModelSource | None:
    """Where files came from, by the newest download that brought them."""
    for download in sorted(downloads, key=lambda each: -each.changed_at):
        if download.state is not DownloadState.FINISHED or download.revision is None:
            continue
        repo = parse_reference(download.reference).repo
        if path == repo or path.removeprefix(f"{repo}/") in download.files:
            return ModelSource(repo=repo, revision=download.revision, quant=download.quant)
    return None


def _taken(name: str, owner: ModelSpec, param: str) -> Conflict:
    return Conflict(
        f"The name {name} belongs to the model {owner.name} already, made of {owner.path}; give another.",
        param=param,
    )


def _name(asked: RegisterFiles, facts: Facts) -> str:
    if asked.name is not None:
        return asked.name
    try:
        return name_of_path(facts.path)
    except ValueError as error:
        raise BadRequest(f"{facts.path} gives no name for a model; give one.", param="name") from error
