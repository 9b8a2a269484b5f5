"""The GGUF models of a repository, grouped from file names, and the projector that belongs to each."""

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from schemas.base import Format
from schemas.hub import NO_MMPROJ
from services.downloader.reference import Reference
from services.downloader.selection.files import RemoteFile, Selection, SelectionError

_QUANT = re.compile(
    r"(?<![A-Za-z0-9])"
    r"((?:UD-)?(?:"
    r"(?:I?Q[1-9]|TQ[12])(?:_(?:[0-9]{1,2}|K|KS|KSS|KL|KT|XXS|XS|S|M|L|XL|XXL|NL|MOE|P|R4|R8))*"
    r"|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")

DEFAULT_QUANTS = (
    *("Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "Q4_K_L", "IQ4_NL", "IQ4_XS", "MXFP4_MOE", "MXFP4", "Q4_1", "Q4_0"),
    *("Q5_K_M", "Q5_K_S", "UD-Q5_K_XL", "Q6_K", "UD-Q6_K_XL", "Q8_0", "Q3_K_M", "BF16", "F16"),
)
"""The default quants in order of preference: small loss, fits most machines."""
_SEPARATORS = re.compile(r"[-_.]")
_PRECISIONS = ("F16", "BF16", "Q8_0", "F32")
"""Default precisions in order of preference: small, and images suffer from coarser ones."""


class GgufName(Struct, frozen=True, kw_only=True):
    """The parts of a GGUF file name; `shard` counts from 1."""

    stem: str
    quant: str | None
    shard: int
    shards: int
    is_mmproj: bool


def parse_name(path: str) -> GgufName | None:
    """The parts of a path in a repository; None if it is no model file (an imatrix is none)."""
    folder, _, name = path.rpartition("/")
    if not name.lower().endswith(".gguf") or "imatrix" in name.lower():
        return None
    stem = name[: -len(".gguf")]
    shard = _SHARD.search(stem)
    if shard and not 1 <= int(shard[1]) <= int(shard[2]):
        shard = None
    if shard:
        stem = stem[: shard.start()]
    return GgufName(
        stem=f"{folder}/{stem}" if folder else stem,
        quant=_last_quant(stem) or _last_quant(folder),
        shard=int(shard[1]) if shard else 1,
        shards=int(shard[2]) if shard else 1,
        is_mmproj="mmproj" in name.lower(),
    )


def label_of_file(path: str) -> str | None:
    """The label that selects this file after a colon: its quant, or else its name without the suffix."""
    name = parse_name(path)
    return None if name is None else name.quant or name.stem.rpartition("/")[2]


def normal_quant(quant: str) -> str:
    """The canonical spelling of a quant: upper case, F16 for FP16."""
    return re.sub(r"^FP(?=16$|32$)", "F", quant.upper())


def _last_quant(text: str) -> str | None:
    quants = _QUANT.findall(text)
    return normal_quant(quants[-1]) if quants else None


class GgufGroup(Struct, frozen=True, kw_only=True):
    """One model, its shards by number. `label` is its quant, or its name if that has none."""

    label: str
    stem: str
    shards: int
    files: dict[int, RemoteFile]

    @property
    def base_name(self) -> str:
        """The file name without folder, shard number and suffix."""
        return self.stem.rpartition("/")[2]

    @property
    def missing(self) -> int:
        return sum(shard not in self.files for shard in range(1, self.shards + 1))

    @property
    def in_order(self) -> tuple[RemoteFile, ...]:
        return tuple(self.files[shard] for shard in sorted(self.files))

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


def group_models(files: Iterable[RemoteFile]) -> list[GgufGroup]:
    """One group a model; where a model is there both whole and in shards, the fewer files win."""
    named = [(name, file) for file in files if (name := parse_name(file.path)) is not None]
    groups: dict[str, GgufGroup] = {}
    for name, file in sorted(named, key=lambda pair: (pair[0].shards, pair[1].path)):
        if name.is_mmproj:
            continue
        label = name.quant or name.stem.rpartition("/")[2]
        new = GgufGroup(label=label, stem=name.stem, shards=name.shards, files={})
        group = groups.setdefault(name.stem, new)
        if group.shards == name.shards:
            group.files.setdefault(name.shard, file)
    return list(groups.values())


def select_gguf(reference: Reference, files: Sequence[RemoteFile], mmproj: str | None) -> Selection:
    """The referenced model, or the default one; SelectionError lists the choices."""
    groups = group_models(files)
    if not groups:
        raise SelectionError(
            f"{reference.repo} has no .gguf model files; choose a GGUF version of the model."
        )
    return _selection(reference, choose(reference, groups), groups, files, mmproj)


def select_file(
    reference: Reference, path: str, files: Sequence[RemoteFile], mmproj: str | None
) -> Selection:
    """The model that a file belongs to."""
    groups = group_models(files)
    owners = [group for group in groups if any(file.path == path for file in group.files.values())]
    if not owners:
        raise SelectionError(f"{path} is in {reference.repo} in fewer parts too; name the model instead.")
    return _selection(reference, owners[0], groups, files, mmproj)


def choose(reference: Reference, groups: Sequence[GgufGroup]) -> GgufGroup:
    """The referenced group, or the default one."""
    if reference.quant is not None:
        return _choose_named(reference, reference.quant, groups)
    for quant in DEFAULT_QUANTS:
        if any(group.label == quant for group in groups):
            return _choose_named(reference, quant, groups)
    if len(groups) == 1:
        return groups[0]
    raise SelectionError(f"{reference.repo} has no default quant; name one of these: {_labels(groups)}.")


def _selection(
    reference: Reference,
    group: GgufGroup,
    groups: Sequence[GgufGroup],
    files: Sequence[RemoteFile],
    mmproj: str | None,
) -> Selection:
    if group.missing:
        others = _labels(other for other in groups if not other.missing)
        what = f"choose another quant: {others}" if others else "and has no other quant"
        raise SelectionError(
            f"{reference.repo} lacks {group.missing} of the {group.shards} parts of {group.label}; {what}."
        )
    return Selection(
        format=Format.GGUF,
        quant=group.label,
        model_files=group.in_order,
        mmproj=choose_mmproj(files, group.in_order[0].path, mmproj),
    )


def _choose_named(reference: Reference, quant: str, groups: Sequence[GgufGroup]) -> GgufGroup:
    wanted = {normal_quant(quant), quant.upper()}
    matches = [group for group in groups if group.label.upper() in wanted]
    matches = matches or [group for group in groups if group.base_name.upper() in wanted]
    if len({group.base_name for group in matches}) == 1:  # a copy in a sub-folder is no second model
        return min(matches, key=lambda group: len(group.stem))
    if not matches:
        raise SelectionError(f"{reference.repo} has no quant {quant}; it has {_labels(groups)}.")
    names = ", ".join(sorted(group.base_name for group in matches))
    raise SelectionError(
        f"{reference.repo} has several models in {quant}; write one of these instead: {names}."
    )


def _labels(groups: Iterable[GgufGroup]) -> str:
    return ", ".join(sorted({group.label for group in groups}))


def mmprojs_of(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Projectors, the default first."""
    return tuple(file for _, file in sorted(_projectors(files), key=_precision))


def choose_mmproj(
    files: Iterable[RemoteFile], model_path: str, wanted: str | None = None
) -> RemoteFile | None:
    """The projector of the wanted precision nearest to the model; SelectionError if there is none."""
    if wanted is not None and wanted.lower() == NO_MMPROJ:
        return None
    projectors = _projectors(files)
    if wanted is not None:
        projectors = _of_precision(projectors, wanted)
    nearest = min(
        projectors, key=lambda part: (_distance(part[0], model_path), _precision(part)), default=None
    )
    return nearest and nearest[1]


def _projectors(files: Iterable[RemoteFile]) -> list[tuple[GgufName, RemoteFile]]:
    named = [(parse_name(file.path), file) for file in files]
    return [(name, file) for name, file in named if name is not None and name.is_mmproj]


def _of_precision(
    parts: Sequence[tuple[GgufName, RemoteFile]], wanted: str
) -> list[tuple[GgufName, RemoteFile]]:
    matches = [part for part in parts if part[0].quant == normal_quant(wanted)]
    if not matches:
        there = ", ".join(sorted({part[0].quant or part[1].path for part in parts})) or "none at all"
        raise SelectionError(f"There is no mmproj in {wanted}; there is {there}.")
    return matches


def _precision(part: tuple[GgufName, RemoteFile]) -> tuple[int, str]:
    quant = part[0].quant
    return (_PRECISIONS.index(quant) if quant in _PRECISIONS else len(_PRECISIONS), part[1].path)


def _distance(part: GgufName, model_path: str) -> tuple[int, int]:
    # Beside the model is nearer than above it, then more words of the name in common.
    folder, _, name = model_path.rpartition("/")
    part_folder, _, part_name = part.stem.rpartition("/")
    model = parse_name(model_path)
    words = _words(part_name, part.quant) & _words(name, model.quant if model else None)
    return (0 if part_folder == folder else 1 if folder.startswith(part_folder) else 2, -len(words))


def _words(name: str, quant: str | None) -> set[str]:
    return set(_SEPARATORS.split(name.lower())) - set(_SEPARATORS.split((quant or "").lower()))
