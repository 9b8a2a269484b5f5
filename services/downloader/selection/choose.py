"""Selects the files that a reference names from a repository."""

from collections.abc import Iterable, Sequence

import msgspec

from schemas.base import Format
from schemas.hub import Choice
from services.downloader.reference import Reference
from services.downloader.selection import safetensors
from services.downloader.selection.files import RemoteFile, Selection, SelectionError, matches
from services.downloader.selection.gguf import group_models, parse_name, select_file, select_gguf

SAFETENSORS = Format.SAFETENSORS.value
"""Used in place of a quant: selects the safetensors of a repository that has GGUF files too."""


def select_files(
    reference: Reference, files: Iterable[RemoteFile], choice: Choice | None = None
) -> Selection:
    """The selected files; SelectionError with a sentence that lists the choices."""
    choice = choice or Choice()
    files = [file for file in files if not matches(file.path, choice.exclude)]
    if choice.include:
        return _select_matches(reference, [file for file in files if matches(file.path, choice.include)])
    if reference.file is not None:
        return _select_file(reference, reference.file, files, choice.mmproj)
    if (quant := reference.quant) is not None and quant.lower() == SAFETENSORS:
        return _select_folder(reference, files)
    if quant is not None or group_models(files):
        return select_gguf(reference, files, choice.mmproj)
    return _select_folder(reference, files)


def _select_folder(reference: Reference, files: Sequence[RemoteFile]) -> Selection:
    safetensors.refuse_kind(reference.repo, files)
    if not safetensors.has_weights(files):
        raise safetensors.refuse_without_model(reference.repo, files)
    return Selection(
        format=Format.SAFETENSORS,
        quant=reference.quant and SAFETENSORS,
        model_files=safetensors.select(reference.repo, files),
    )


def _select_file(
    reference: Reference, path: str, files: Sequence[RemoteFile], mmproj: str | None
) -> Selection:
    # A GGUF file brings its other shards and its projector; any other file comes alone.
    selected = next((file for file in files if file.path == path), None)
    if selected is None:
        raise SelectionError(f"{reference.repo} has no file {path}.", "entry_not_found")
    name = parse_name(path)
    if name is not None and not name.is_mmproj:
        return select_file(reference, path, files, mmproj)
    return Selection(format=None, model_files=(selected,))


def _select_matches(reference: Reference, files: Sequence[RemoteFile]) -> Selection:
    # Exactly these files: a model if they hold one GGUF model, or safetensors with their config.
    if reference.quant or reference.file:
        raise SelectionError("Give a quant or a file, or patterns, but not both.", "bad_reference")
    if not files:
        raise SelectionError(f"No file of {reference.repo} matches the patterns.", "entry_not_found")
    groups = group_models(files)
    if len(groups) == 1 and not groups[0].missing:
        chosen = select_gguf(reference, files, None)
        shards = {file.path for file in chosen.model_files}
        others = tuple(file for file in files if file.path not in shards and file is not chosen.mmproj)
        # The first file is the model; other matches follow its shards.
        return msgspec.structs.replace(chosen, model_files=chosen.model_files + others)
    has_config = any(file.path == "config.json" for file in files)
    is_model = not groups and has_config and safetensors.has_weights(files)
    return Selection(format=Format.SAFETENSORS if is_model else None, model_files=tuple(files))
