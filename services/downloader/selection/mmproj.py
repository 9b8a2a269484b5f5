"""Which vision part goes along with a GGUF model."""

import re
from collections.abc import Iterable, Sequence

from schemas.hub import NO_MMPROJ
from services.downloader.selection.files import RemoteFile, SelectionError
from services.downloader.selection.quants import GgufName, normal_quant, read_name

_SEPARATORS = re.compile(r"[-_.]")
_ORDER = ("F16", "BF16", "Q8_0", "F32")
"""Taken in this order when nobody chooses: they are small, and a coarse eye sees badly."""


def mmprojs_of(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Every vision part, the one to take along first."""
    return tuple(file for _, file in sorted(_named(files), key=_precision))


def choose_mmproj(
    files: Iterable[RemoteFile], model_path: str, wanted: str | None = None
) -> RemoteFile | None:
    """The part of the wanted precision that lies nearest to the model; SelectionError if there is none."""
    if wanted is not None and wanted.lower() == NO_MMPROJ:
        return None
    parts = _named(files)
    if wanted is not None:
        parts = _of_precision(parts, wanted)
    found = min(parts, key=lambda part: (_distance(part[0], model_path), _precision(part)), default=None)
    return found and found[1]


def _named(files: Iterable[RemoteFile]) -> list[tuple[GgufName, RemoteFile]]:
    named = [(read_name(file.path), file) for file in files]
    return [(name, file) for name, file in named if name is not None and name.is_mmproj]


def _of_precision(
    parts: Sequence[tuple[GgufName, RemoteFile]], wanted: str
) -> list[tuple[GgufName, RemoteFile]]:
    found = [part for part in parts if part[0].quant == normal_quant(wanted)]
    if not found:
        there = ", ".join(sorted({part[0].quant or part[1].path for part in parts})) or "none at all"
        raise SelectionError(f"There is no mmproj in {wanted}; there is {there}.")
    return found


def _precision(part: tuple[GgufName, RemoteFile]) -> tuple[int, str]:
    quant = part[0].quant
    return (_ORDER.index(quant) if quant in _ORDER else len(_ORDER), part[1].path)


def _distance(part: GgufName, model_path: str) -> tuple[int, int]:
    """Beside the model is nearer than above it; a part that shares more of its name is its own."""
    folder, _, name = model_path.rpartition("/")
    part_folder, _, part_name = part.stem.rpartition("/")
    model = read_name(model_path)
    words = _words(part_name, part.quant) & _words(name, model.quant if model else None)
    return (0 if part_folder == folder else 1 if folder.startswith(part_folder) else 2, -len(words))


def _words(name: str, quant: str | None) -> set[str]:
    """The words of a name without its quant, which tells nothing about whose part it is."""
    return set(_SEPARATORS.split(name.lower())) - set(_SEPARATORS.split((quant or "").lower()))
