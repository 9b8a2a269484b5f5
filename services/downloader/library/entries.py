"""From a scanned store to the entries it publishes. Pure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

import modelyard
from modelyard.text import format_size
from schemas.downloads import Download, DownloadState
from schemas.library import EntryFacts, EntryFormat, LibraryEntry, VerifyState, entry_id
from schemas.models import ModelSource, ModelSpec
from services.downloader.library import records
from services.downloader.library.grouping import shown_name
from services.downloader.library.scanner import StoredModel
from services.downloader.reference import parse_reference

_SHOWN_DAMAGED = 20
Uses = Mapping[str, tuple[str, ...]]
"""Names of the models that use a file or folder, by its path in the store."""


def revision_of(description: str) -> str:
    """A revision of the description; empty for none."""
    return hashlib.sha256(description.encode()).hexdigest()[:16] if description else ""


def uses_of(specs: Iterable[ModelSpec]) -> Uses:
    """The uses of every path that these models name."""
    uses: defaultdict[str, list[str]] = defaultdict(list)
    for spec in specs:
        lora_paths = [lora.path for lora in spec.loras]
        for path in {spec.path, spec.mmproj, spec.chat_template, *lora_paths}:
            if path:
                uses[path].append(spec.name)
    return {path: tuple(sorted(names)) for path, names in uses.items()}


def users_of(model: StoredModel, uses: Uses) -> tuple[str, ...]:
    """Names of models that use a file of this one, or its folder."""
    group = model.group
    places = [group.path, *(file.path for file in group.files)]
    if group.format in (EntryFormat.SAFETENSORS, EntryFormat.OTHER) and group.folder:
        places.append(group.folder)
    return tuple(sorted({name for place in places for name in uses.get(place, ())}))


def is_fetching(download: Download, model: StoredModel) -> bool:
    """Whether a running download fetches files of this model."""
    if download.state is not DownloadState.TRANSFERRING:
        return False
    repo = parse_reference(download.reference).repo
    paths = {f"{repo}/{path}" for path in download.files}
    return any(file.path in paths for file in model.group.files)


def entry_of(model: StoredModel, node: str, store: str, users: tuple[str, ...]) -> LibraryEntry:
    group, reading = model.group, model.reading
    checked = model.checked_files
    downloaded = [record.downloaded_at for record in model.record.values() if record.downloaded_at]
    times = [file.verified_at for file in checked if file.verified_at is not None]
    return LibraryEntry(
        node=node,
        store=store,
        entry=entry_id(group.path),
        path=group.path,
        name=shown_name(group),
        format=group.format,
        size_bytes=group.size_bytes,
        size=format_size(group.size_bytes),
        weights_bytes=group.weights_bytes,
        n_files=len(group.files),
        modified_at=group.modified_ns / 1e9,
        downloaded_at=max(downloaded, default=None),
        facts=reading.facts if reading else EntryFacts(),
        mmproj=group.mmproj,
        source=_source(model),
        used_by=users,
        verified=records.worst(checked),
        verified_at=min(times, default=None) if len(times) == len(checked) else None,
        damaged=tuple(file.path for file in checked if file.verified is VerifyState.DAMAGED)[:_SHOWN_DAMAGED],
        description=model.description,
        description_revision=revision_of(model.description),
        link=group.link.target if group.link else None,
        problem=reading.problem if reading else None,
        read_by=modelyard.__version__ if reading and not reading.problem else "",
    )


def _source(model: StoredModel) -> ModelSource | None:
    # Of the first of its weights.
    for file in model.group.weights[:1]:
        record = model.record.get(file.path)
        if record is not None and record.repo and record.revision:
            return ModelSource(repo=record.repo, revision=record.revision)
    return None
