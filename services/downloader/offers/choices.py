"""The models in a repository's file listing. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from schemas.base import Format
from schemas.hub import OfferedChoice, OfferedFile
from schemas.models import ModelSpec
from services.downloader.reference import Reference
from services.downloader.selection.choose import SAFETENSORS
from services.downloader.selection.files import RemoteFile, SelectionError
from services.downloader.selection.gguf import GgufGroup, choose, group_models
from services.downloader.selection.safetensors import has_safetensors, refuse_kind, select_safetensors

_MAX_CHOICES = 200
IsStored = Callable[[RemoteFile], bool]


class LocalModels(Struct, frozen=True, kw_only=True):
    """Registered models, and whether a file is in the store already."""

    models: tuple[ModelSpec, ...]
    is_stored: IsStored


def gguf_choices(
    reference: Reference, files: Sequence[RemoteFile], local: LocalModels
) -> list[tuple[GgufGroup, OfferedChoice]]:
    """Complete GGUF models, smallest first; the referenced one if it has a quant or file."""
    groups = [group for group in group_models(files) if not group.missing]
    labels = Counter(group.label for group in groups)
    default = _default(reference, groups)
    if reference.quant or reference.file:
        groups = [group for group in groups if _matches(reference, group)]
    return [
        (group, _offered(reference, group, labels[group.label] == 1, group is default, local))
        for group in sorted(groups, key=lambda group: (group.size_bytes, group.stem))[:_MAX_CHOICES]
    ]


def folder_choice(
    reference: Reference, files: Sequence[RemoteFile], local: LocalModels, *, is_default: bool
) -> OfferedChoice | None:
    """The safetensors model; None without one. SelectionError where no engine serves it."""
    refuse_kind(reference.repo, files)
    if not has_safetensors(files):
        return None
    chosen = select_safetensors(reference.repo, files)
    suffix = "" if is_default else f":{SAFETENSORS}"
    return OfferedChoice(
        label=SAFETENSORS,
        reference=f"{reference.repo}{suffix}{_revision_suffix(reference)}",
        format=Format.SAFETENSORS,
        files=offered_files(chosen),
        size_bytes=sum(file.size_bytes for file in chosen),
        is_default=is_default,
        is_here=all(map(local.is_stored, chosen)),
        models=_models_at([reference.repo], local.models),
    )


def offered_files(files: Iterable[RemoteFile]) -> tuple[OfferedFile, ...]:
    """Files as they are on the wire."""
    return tuple(OfferedFile(path=file.path, size_bytes=file.size_bytes) for file in files)


def weights_bytes(offered: OfferedChoice) -> int:
    return sum(file.size_bytes for file in offered.files if PurePosixPath(file.path).suffix == ".safetensors")


def _default(reference: Reference, groups: Sequence[GgufGroup]) -> GgufGroup | None:
    try:
        return choose(Reference(repo=reference.repo), groups) if groups else None
    except SelectionError:
        return None


def _matches(reference: Reference, group: GgufGroup) -> bool:
    if reference.file is not None:
        return any(file.path == reference.file for file in group.files.values())
    wanted = (reference.quant or "").upper()
    return wanted in (group.label.upper(), group.base_name.upper())


def _offered(
    reference: Reference, group: GgufGroup, is_only: bool, is_default: bool, local: LocalModels
) -> OfferedChoice:
    # Models that share a label are distinguished by name.
    label = group.label if is_only else group.base_name
    paths = [f"{reference.repo}/{file.path}" for file in group.in_order]
    return OfferedChoice(
        label=label,
        reference=f"{reference.repo}:{label}{_revision_suffix(reference)}",
        format=Format.GGUF,
        files=offered_files(group.in_order),
        size_bytes=group.size_bytes,
        is_default=is_default,
        is_here=all(map(local.is_stored, group.in_order)),
        models=_models_at(paths, local.models),
    )


def _models_at(paths: Sequence[str], models: Iterable[ModelSpec]) -> tuple[str, ...]:
    return tuple(sorted(model.name for model in models if model.path in paths))


def _revision_suffix(reference: Reference) -> str:
    return f"@{reference.revision}" if reference.revision else ""
