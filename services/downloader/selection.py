"""Which files of a repository make up the model that a reference names."""

from collections.abc import Iterable

from msgspec import Struct

from services.downloader.quants import DEFAULT_QUANTS, GgufName, label_of_file, normal_quant, read_name
from services.downloader.reference import Reference, make_reference, parse_reference

__all__ = [
    "Reference",
    "RemoteFile",
    "Selection",
    "label_of_file",
    "make_reference",
    "parse_reference",
    "quants_of",
    "select_files",
]

_MMPROJ_ORDER = ("F16", "BF16", "Q8_0", "F32")


class RemoteFile(Struct, frozen=True, kw_only=True):
    """A file as the hub lists it; only small files have no sha256."""

    path: str
    size_bytes: int
    sha256: str | None = None


class Selection(Struct, frozen=True, kw_only=True):
    """The files of one model, shards in order; mmproj is the vision part that goes with it."""

    quant: str
    model_files: tuple[RemoteFile, ...]
    mmproj: RemoteFile | None = None


class _Group(Struct, frozen=True, kw_only=True):
    label: str
    stem: str
    shards: int
    files: dict[int, RemoteFile]


def select_files(reference: Reference, files: Iterable[RemoteFile]) -> Selection:
    """Choose the files for a reference; ValueError names what there is to choose from."""
    named = [(name, file) for file in files if (name := read_name(file.path)) is not None]
    groups = _group([pair for pair in named if not pair[0].is_mmproj])
    if not groups:
        raise ValueError(f"{reference.repo} has no .gguf model files; look for a GGUF version of the model.")
    group = _choose(reference, groups)
    missing = [shard for shard in range(1, group.shards + 1) if shard not in group.files]
    if missing:
        raise ValueError(
            f"{reference.repo} lacks {len(missing)} of the {group.shards} parts of {group.label}; "
            f"choose another quant: {_labels(groups)}."
        )
    return Selection(
        quant=group.label,
        model_files=tuple(group.files[shard] for shard in sorted(group.files)),
        mmproj=_choose_mmproj([pair for pair in named if pair[0].is_mmproj]),
    )


def quants_of(files: Iterable[RemoteFile]) -> tuple[str, ...]:
    """The quants a repository offers, in alphabetical order."""
    named = [(name, file) for file in files if (name := read_name(file.path)) is not None]
    return tuple(sorted({group.label for group in _group([pair for pair in named if not pair[0].is_mmproj])}))


def _group(named: list[tuple[GgufName, RemoteFile]]) -> list[_Group]:
    """One group a model; where a model lies there both whole and in shards, the fewer files win."""
    groups: dict[str, _Group] = {}
    for name, file in sorted(named, key=lambda pair: (pair[0].shards, pair[1].path)):
        label = name.quant or name.stem.rpartition("/")[2]
        fresh = _Group(label=label, stem=name.stem, shards=name.shards, files={})
        group = groups.setdefault(name.stem, fresh)
        if group.shards == name.shards:
            group.files.setdefault(name.shard, file)
    return list(groups.values())


def _choose(reference: Reference, groups: list[_Group]) -> _Group:
    if reference.quant is not None:
        return _choose_named(reference, reference.quant, groups)
    for quant in DEFAULT_QUANTS:
        if any(group.label == quant for group in groups):
            return _choose_named(reference, quant, groups)
    if len(groups) == 1:
        return groups[0]
    raise ValueError(f"{reference.repo} has no usual quant; name one of these: {_labels(groups)}.")


def _choose_named(reference: Reference, quant: str, groups: list[_Group]) -> _Group:
    wanted = {normal_quant(quant), quant.upper()}
    found = [group for group in groups if group.label.upper() in wanted]
    found = found or [group for group in groups if _base_name(group).upper() in wanted]
    if len({_base_name(group) for group in found}) == 1:  # a copy in a sub-folder is no second model
        return min(found, key=lambda group: len(group.stem))
    if not found:
        raise ValueError(f"{reference.repo} has no quant {quant}; it has {_labels(groups)}.")
    names = ", ".join(sorted(_base_name(group) for group in found))
    raise ValueError(f"{reference.repo} has several models in {quant}; write one of these instead: {names}.")


def _choose_mmproj(named: list[tuple[GgufName, RemoteFile]]) -> RemoteFile | None:
    def rank(pair: tuple[GgufName, RemoteFile]) -> tuple[int, str]:
        quant = pair[0].quant
        return (_MMPROJ_ORDER.index(quant) if quant in _MMPROJ_ORDER else len(_MMPROJ_ORDER), pair[1].path)

    return min(named, key=rank)[1] if named else None


def _base_name(group: _Group) -> str:
    return group.stem.rpartition("/")[2]


def _labels(groups: list[_Group]) -> str:
    return ", ".join(sorted({group.label for group in groups}))
