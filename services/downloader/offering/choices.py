"""The models that a repository offers, by its list of files. Pure."""

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
from services.downloader.selection.gguf import Group, choose, group_models
from services.downloader.selection.safetensors import has_safetensors, refuse_kind, select_safetensors

_MOST = 200
"""No repository that anybody chooses from has more."""
IsHere = Callable[[RemoteFile], bool]


class Shelf(Struct, frozen=True, kw_only=True):
    """What the offer is compared with."""

    models: tuple[ModelSpec, ...]
    is_here: IsHere


def gguf_choices(
    reference: Reference, files: Sequence[RemoteFile], shelf: Shelf
) -> list[tuple[Group, OfferedChoice]]:
    """Every GGUF model that is there whole, smallest first; with a quant in the reference that one alone."""
    groups = [group for group in group_models(files) if not group.missing]
    labels = Counter(group.label for group in groups)
    default = _default(reference, groups)
    if reference.quant or reference.file:
        groups = [group for group in groups if _is_meant(reference, group)]
    return [
        (group, _offered(reference, group, labels[group.label] == 1, group is default, shelf))
        for group in sorted(groups, key=lambda group: (group.size_bytes, group.stem))[:_MOST]
    ]


def folder_choice(
    reference: Reference, files: Sequence[RemoteFile], shelf: Shelf, *, is_default: bool
) -> OfferedChoice | None:
    """The folder of safetensors; None where there is none. SelectionError where it is none for an engine."""
    refuse_kind(reference.repo, files)
    if not has_safetensors(files):
        return None
    chosen = select_safetensors(reference.repo, files)
    suffix = "" if is_default else f":{SAFETENSORS}"
    return OfferedChoice(
        label=SAFETENSORS,
        reference=f"{reference.repo}{suffix}{_at(reference)}",
        format=Format.SAFETENSORS,
        files=tuple(_file(file) for file in chosen),
        size_bytes=sum(file.size_bytes for file in chosen),
        is_default=is_default,
        is_here=all(map(shelf.is_here, chosen)),
        models=_made_of([reference.repo], shelf.models),
    )


def offered_files(files: Iterable[RemoteFile]) -> tuple[OfferedFile, ...]:
    """As they go over the wire."""
    return tuple(map(_file, files))


def weights_of(offered: OfferedChoice) -> int:
    """Bytes of the files that hold weights."""
    return sum(file.size_bytes for file in offered.files if PurePosixPath(file.path).suffix == ".safetensors")


def _default(reference: Reference, groups: Sequence[Group]) -> Group | None:
    try:
        return choose(Reference(repo=reference.repo), groups) if groups else None
    except SelectionError:
        return None


def _is_meant(reference: Reference, group: Group) -> bool:
    if reference.file is not None:
        return any(file.path == reference.file for file in group.files.values())
    wanted = (reference.quant or "").upper()
    return wanted in (group.label.upper(), group.base_name.upper())


def _offered(
    reference: Reference, group: Group, is_only: bool, is_default: bool, shelf: Shelf
) -> OfferedChoice:
    """Where several have one label, each goes by its name."""
    label = group.label if is_only else group.base_name
    paths = [f"{reference.repo}/{file.path}" for file in group.in_order]
    return OfferedChoice(
        label=label,
        reference=f"{reference.repo}:{label}{_at(reference)}",
        format=Format.GGUF,
        files=tuple(map(_file, group.in_order)),
        size_bytes=group.size_bytes,
        is_default=is_default,
        is_here=all(map(shelf.is_here, group.in_order)),
        models=_made_of(paths, shelf.models),
    )


def _made_of(paths: Sequence[str], models: Iterable[ModelSpec]) -> tuple[str, ...]:
    return tuple(sorted(model.name for model in models if model.path in paths))


def _at(reference: Reference) -> str:
    return f"@{reference.revision}" if reference.revision else ""


def _file(file: RemoteFile) -> OfferedFile:
    return OfferedFile(path=file.path, size_bytes=file.size_bytes)
