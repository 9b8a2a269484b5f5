"""From what lies in a store to what is told of it. Pure."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from modelyard.text import format_size
from schemas.downloads import Download, DownloadState
from schemas.library import EntryFacts, EntryFormat, LibraryEntry, VerifyState, entry_id
from schemas.models import ModelSource, ModelSpec
from services.downloader.library import records
from services.downloader.library.grouping import shown_name
from services.downloader.library.shelf import Look, Model, read_by
from services.downloader.reference import parse_reference

_SHOWN_DAMAGED = 20
Uses = Mapping[str, tuple[str, ...]]
"""By the path of a file or a folder, relative to its store: the models that name it."""


def revision_of(description: str) -> str:
    """Tells one description from another; empty for none."""
    return hashlib.sha256(description.encode()).hexdigest()[:16] if description else ""


def uses_of(specs: Iterable[ModelSpec]) -> Uses:
    """Every path that a model of the registry names."""
    uses: defaultdict[str, list[str]] = defaultdict(list)
    for spec in specs:
        lora_paths = [lora.path for lora in spec.loras]
        for path in {spec.path, spec.mmproj, spec.chat_template, *lora_paths}:
            if path:
                uses[path].append(spec.name)
    return {path: tuple(sorted(names)) for path, names in uses.items()}


def users_of(model: Model, uses: Uses) -> tuple[str, ...]:
    """The models that need a file of this one, or its folder."""
    group = model.group
    places = [group.path, *(file.path for file in group.files)]
    if group.format in (EntryFormat.SAFETENSORS, EntryFormat.OTHER) and group.folder:
        places.append(group.folder)
    return tuple(sorted({name for place in places for name in uses.get(place, ())}))


def brings(download: Download, model: Model) -> bool:
    """Whether a download is at files of this model; which ones, is known as soon as the hub has answered."""
    if download.state is not DownloadState.TRANSFERRING:
        return False
    repo = parse_reference(download.reference).repo
    coming = {f"{repo}/{path}" for path in download.files}
    return any(file.path in coming for file in model.group.files)


def entry_of(model: Model, node: str, store: str, users: tuple[str, ...]) -> LibraryEntry:
    """What is told of a model."""
    group, reading = model.group, model.reading
    judged = model.judged
    times = [file.verified_at for file in judged if file.verified_at is not None]
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
        downloaded_at=_downloaded_at(model),
        facts=reading.facts if reading else EntryFacts(),
        mmproj=group.mmproj,
        source=_source(model),
        used_by=users,
        verified=records.worst(judged),
        verified_at=min(times, default=None) if len(times) == len(judged) else None,
        damaged=tuple(file.path for file in judged if file.verified is VerifyState.DAMAGED)[:_SHOWN_DAMAGED],
        description=model.description,
        description_revision=revision_of(model.description),
        link=group.link.target if group.link else None,
        problem=reading.problem if reading else None,
        read_by=read_by() if reading and not reading.problem else "",
    )


def _downloaded_at(model: Model) -> float | None:
    times = [record.downloaded_at for record in model.record.values() if record.downloaded_at is not None]
    return max(times, default=None)


def _source(model: Model) -> ModelSource | None:
    """Where the first of its weights came from."""
    for file in model.group.weights[:1]:
        record = model.record.get(file.path)
        if record is not None and record.repo and record.revision:
            return ModelSource(repo=record.repo, revision=record.revision)
    return None


def partial_bytes(look: Look) -> int:
    """Of files that are not all there."""
    return sum(file.size_bytes for file in look.tree.partials)


def used_bytes(look: Look) -> int:
    """Of everything but the trash."""
    return sum(file.size_bytes for file in look.tree.files) + partial_bytes(look)
