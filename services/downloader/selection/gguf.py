"""The GGUF models of a repository: files grouped by their names, shards together."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from schemas.base import Format
from services.downloader.reference import Reference
from services.downloader.selection.files import RemoteFile, Selection, SelectionError
from services.downloader.selection.mmproj import choose_mmproj
from services.downloader.selection.quants import DEFAULT_QUANTS, normal_quant, read_name


class Group(Struct, frozen=True, kw_only=True):
    """One model: its shards by number. `label` is its quant, or its name where that tells none."""

    label: str
    stem: str
    shards: int
    files: dict[int, RemoteFile]

    @property
    def base_name(self) -> str:
        """Its file's name without folder, shard and ending."""
        return self.stem.rpartition("/")[2]

    @property
    def missing(self) -> int:
        """How many of its shards are not there."""
        return sum(shard not in self.files for shard in range(1, self.shards + 1))

    @property
    def in_order(self) -> tuple[RemoteFile, ...]:
        """Its files, first shard first."""
        return tuple(self.files[shard] for shard in sorted(self.files))

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.files.values())


def group_models(files: Iterable[RemoteFile]) -> list[Group]:
    """One group a model; where a model lies there both whole and in shards, the fewer files win."""
    named = [(name, file) for file in files if (name := read_name(file.path)) is not None]
    groups: dict[str, Group] = {}
    for name, file in sorted(named, key=lambda pair: (pair[0].shards, pair[1].path)):
        if name.is_mmproj:
            continue
        label = name.quant or name.stem.rpartition("/")[2]
        fresh = Group(label=label, stem=name.stem, shards=name.shards, files={})
        group = groups.setdefault(name.stem, fresh)
        if group.shards == name.shards:
            group.files.setdefault(name.shard, file)
    return list(groups.values())


def select_gguf(reference: Reference, files: Sequence[RemoteFile], mmproj: str | None) -> Selection:
    """The model that the reference names, or the usual one; SelectionError names what there is."""
    groups = group_models(files)
    if not groups:
        raise SelectionError(
            f"{reference.repo} has no .gguf model files; look for a GGUF version of the model."
        )
    return _selection(reference, choose(reference, groups), groups, files, mmproj)


def select_file(
    reference: Reference, path: str, files: Sequence[RemoteFile], mmproj: str | None
) -> Selection:
    """The model that a file is a part of."""
    groups = group_models(files)
    mine = [group for group in groups if any(file.path == path for file in group.files.values())]
    if not mine:
        raise SelectionError(f"{path} is in {reference.repo} in fewer parts too; name the model instead.")
    return _selection(reference, mine[0], groups, files, mmproj)


def choose(reference: Reference, groups: Sequence[Group]) -> Group:
    """The group that the reference names, or the one to take if nobody chooses."""
    if reference.quant is not None:
        return _choose_named(reference, reference.quant, groups)
    for quant in DEFAULT_QUANTS:
        if any(group.label == quant for group in groups):
            return _choose_named(reference, quant, groups)
    if len(groups) == 1:
        return groups[0]
    raise SelectionError(f"{reference.repo} has no usual quant; name one of these: {_labels(groups)}.")


def _selection(
    reference: Reference,
    group: Group,
    groups: Sequence[Group],
    files: Sequence[RemoteFile],
    mmproj: str | None,
) -> Selection:
    if group.missing:
        others = _labels(each for each in groups if not each.missing)
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


def _choose_named(reference: Reference, quant: str, groups: Sequence[Group]) -> Group:
    wanted = {normal_quant(quant), quant.upper()}
    found = [group for group in groups if group.label.upper() in wanted]
    found = found or [group for group in groups if group.base_name.upper() in wanted]
    if len({group.base_name for group in found}) == 1:  # a copy in a sub-folder is no second model
        return min(found, key=lambda group: len(group.stem))
    if not found:
        raise SelectionError(f"{reference.repo} has no quant {quant}; it has {_labels(groups)}.")
    names = ", ".join(sorted(group.base_name for group in found))
    raise SelectionError(
        f"{reference.repo} has several models in {quant}; write one of these instead: {names}."
    )


def _labels(groups: Iterable[Group]) -> str:
    return ", ".join(sorted({group.label for group in groups}))
