"""Which files of a repository make up what a reference names."""

from collections.abc import Iterable, Sequence

from schemas.base import Format
from schemas.hub import Choice
from services.downloader.reference import Reference
from services.downloader.selection import patterns
from services.downloader.selection.files import RemoteFile, Selection, SelectionError
from services.downloader.selection.gguf import group_models, select_file, select_gguf
from services.downloader.selection.quants import read_name
from services.downloader.selection.safetensors import (
    has_safetensors,
    pickles_of,
    refuse_kind,
    refuse_pickles,
    select_safetensors,
)

SAFETENSORS = Format.SAFETENSORS.value
"""In place of a quant: the folder of safetensors, where a repository has GGUF files too."""


def select_files(
    reference: Reference, files: Iterable[RemoteFile], choice: Choice | None = None
) -> Selection:
    """Choose the files; SelectionError says in a sentence why not, and what there is to choose from."""
    choice = choice or Choice()
    left = patterns.without(files, choice.exclude)
    if choice.include:
        return _by_patterns(reference, patterns.only(left, choice.include))
    if reference.file is not None:
        return _by_file(reference, reference.file, left, choice.mmproj)
    if (quant := reference.quant) is not None and quant.lower() == SAFETENSORS:
        return _folder(reference, left)
    if quant is not None or group_models(left):
        return select_gguf(reference, left, choice.mmproj)
    return _folder(reference, left)


def _folder(reference: Reference, files: Sequence[RemoteFile]) -> Selection:
    refuse_kind(reference.repo, files)
    if not has_safetensors(files):
        if pickles := pickles_of(files):
            raise refuse_pickles(reference.repo, pickles)
        raise SelectionError(
            f"{reference.repo} has no .gguf and no .safetensors model files; look for a GGUF version of it."
        )
    return Selection(
        format=Format.SAFETENSORS,
        quant=reference.quant and SAFETENSORS,
        model_files=select_safetensors(reference.repo, files),
    )


def _by_file(reference: Reference, path: str, files: Sequence[RemoteFile], mmproj: str | None) -> Selection:
    """A GGUF file brings its other shards and its vision part along; any other file comes alone."""
    found = next((file for file in files if file.path == path), None)
    if found is None:
        raise SelectionError(f"{reference.repo} has no file {path}.", "entry_not_found")
    name = read_name(path)
    if name is not None and not name.is_mmproj:
        return select_file(reference, path, files, mmproj)
    return Selection(format=None, model_files=(found,))


def _by_patterns(reference: Reference, files: Sequence[RemoteFile]) -> Selection:
    """Exactly these. They are a model if they hold one GGUF model, or else safetensors with their config."""
    if reference.quant or reference.file:
        raise SelectionError("Give a quant or a file, or patterns, but not both.", "bad_reference")
    if not files:
        raise SelectionError(f"No file of {reference.repo} matches the patterns.", "entry_not_found")
    groups = group_models(files)
    if len(groups) == 1 and not groups[0].missing:
        chosen = select_gguf(reference, files, None)
        mine = {file.path for file in chosen.model_files}
        others = tuple(file for file in files if file.path not in mine and file is not chosen.mmproj)
        # The first file is the model; what else was asked for comes after its shards.
        return Selection(
            format=Format.GGUF,
            quant=chosen.quant,
            model_files=chosen.model_files + others,
            mmproj=chosen.mmproj,
        )
    is_model = not groups and has_safetensors(files) and any(file.path == "config.json" for file in files)
    return Selection(format=Format.SAFETENSORS if is_model else None, model_files=tuple(files))
