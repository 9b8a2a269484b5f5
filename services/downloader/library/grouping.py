"""Groups the files of a store into models, from names and sizes alone. Pure.

- Each GGUF file is a model; shards are one model.
- A folder with .safetensors files, or with a configuration and such files one level below, is a model.
- A folder with other weights is a model too, and so is every weights file at the top of a store.
- Other files belong to the only model of their folder; files that several models share belong to none, until
  one model is left.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from schemas.library import EntryFormat
from services.downloader.library.walk import ScannedFile, ScannedLink, StoreTree

DESCRIPTION = "description.txt"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
MARKS = frozenset({"config.json", "modules.json", "model_index.json", "adapter_config.json"})
_OTHER = (".bin", ".pt", ".pth", ".onnx", ".ckpt", ".npz", ".ggml", ".tflite", ".engine")


class FileGroup(msgspec.Struct):
    """The files of one model: its weights in order, and its companions."""

    format: EntryFormat
    path: str
    folder: str
    weights: list[ScannedFile]
    companions: list[ScannedFile] = msgspec.field(default_factory=list)
    mmproj: str | None = None
    shards: int = 1
    link: ScannedLink | None = None

    @property
    def files(self) -> list[ScannedFile]:
        """All files that are deleted with it."""
        return [*self.weights, *self.companions]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def weights_bytes(self) -> int:
        return sum(file.size_bytes for file in self.weights)

    @property
    def modified_ns(self) -> int:
        newest = max((file.modified_ns for file in self.weights), default=0)
        return max(newest, self.link.modified_ns if self.link else 0)

    @property
    def missing_shards(self) -> list[str]:
        match = _SHARD.fullmatch(self.weights[0].name) if self.weights else None
        if match is None or self.format is not EntryFormat.GGUF:
            return []
        present = {file.name for file in self.weights}
        stem, count = match["stem"], match["count"]
        names = (f"{stem}-{number:05d}-of-{count}.gguf" for number in range(1, self.shards + 1))
        return [name for name in names if name not in present]

    @property
    def description_path(self) -> str:
        """The path of its description; a file at the top of the store has its own."""
        if self.folder:
            return f"{self.folder}/{DESCRIPTION}"
        return f"{self.path.rpartition('.')[0] or self.path}.{DESCRIPTION}"


def groups_of(tree: StoreTree) -> list[FileGroup]:
    """The models of a store, by path."""
    folders: defaultdict[str, list[ScannedFile]] = defaultdict(list)
    for file in tree.files:
        folders[file.folder].append(file)
    groups = [*_ggufs(tree.files), *_repos(folders)]
    groups += _others(folders, {group.path for group in groups if group.format is EntryFormat.SAFETENSORS})
    groups += _projectors(tree.files, groups)
    _add_companions(tree.files, groups)
    for link in filter(_is_model_link, tree.links):
        folder = link.path.rpartition("/")[0]
        groups.append(FileGroup(EntryFormat.LINK, link.path, folder, [], link=link))
    return sorted(groups, key=lambda group: group.path)


def _is_model_gguf(file: ScannedFile) -> bool:
    name = file.name.lower()
    return name.endswith(".gguf") and "mmproj" not in name and "imatrix" not in name


def _is_projector(file: ScannedFile) -> bool:
    return file.name.lower().endswith(".gguf") and "mmproj" in file.name.lower()


def _ggufs(files: Iterable[ScannedFile]) -> Iterator[FileGroup]:
    shards: defaultdict[tuple[str, str, int], dict[int, ScannedFile]] = defaultdict(dict)
    for file in files:
        if not _is_model_gguf(file):
            continue
        match = _SHARD.fullmatch(file.name)
        if match and 1 <= int(match["number"]) <= int(match["count"]):
            shards[file.folder, match["stem"], int(match["count"])][int(match["number"])] = file
        else:
            yield FileGroup(EntryFormat.GGUF, file.path, file.folder, [file])
    for (folder, _, count), numbered in shards.items():
        weights = [numbered[number] for number in sorted(numbered)]
        yield FileGroup(EntryFormat.GGUF, weights[0].path, folder, weights, shards=count)


def _repos(folders: dict[str, list[ScannedFile]]) -> Iterator[FileGroup]:
    # Outer folders first: what is below one of them is part of it.
    weights = {folder: _ending(files, (".safetensors",)) for folder, files in folders.items()}
    below: defaultdict[str, list[ScannedFile]] = defaultdict(list)
    for folder, files in weights.items():
        if folder and files:
            below[folder.rpartition("/")[0]] += files
    taken: set[str] = set()
    for folder in sorted(folders):
        own, marked = weights[folder], any(file.name in MARKS for file in folders[folder])
        files = [*own, *below[folder]] if marked else own
        if folder and files and not taken.intersection(ancestors(folder)):
            taken.add(folder)
            yield FileGroup(EntryFormat.SAFETENSORS, folder, folder, sorted(files))


def _others(folders: dict[str, list[ScannedFile]], repos: set[str]) -> Iterator[FileGroup]:
    for folder, files in folders.items():
        if not folder:
            for file in _ending(files, (*_OTHER, ".safetensors")):
                yield FileGroup(EntryFormat.OTHER, file.path, "", [file])
        elif not repos.intersection((folder, *ancestors(folder))) and (others := _ending(files, _OTHER)):
            yield FileGroup(EntryFormat.OTHER, folder, folder, others)


def _ending(files: Iterable[ScannedFile], suffixes: tuple[str, ...]) -> list[ScannedFile]:
    return [file for file in files if file.name.lower().endswith(suffixes)]


def _projectors(files: Iterable[ScannedFile], groups: Sequence[FileGroup]) -> list[FileGroup]:
    # A projector belongs to the GGUF models beside it or one folder below; without any it is a model.
    by_folder: defaultdict[str, list[ScannedFile]] = defaultdict(list)
    for file in files:
        if _is_projector(file):
            by_folder[file.folder].append(file)
    users: defaultdict[str, list[FileGroup]] = defaultdict(list)
    for group in groups:
        if group.format is not EntryFormat.GGUF or not group.folder:
            continue
        for place in (group.folder, group.folder.rpartition("/")[0]):
            if place and by_folder[place]:
                for projector in by_folder[place]:
                    users[projector.path].append(group)
                group.mmproj = min(file.path for file in by_folder[place])
                break
    projectors = [file for files in by_folder.values() for file in files]
    for file in projectors:
        if len(users[file.path]) == 1:
            users[file.path][0].companions.append(file)
    return [
        FileGroup(EntryFormat.GGUF, file.path, file.folder, [file])
        for file in projectors
        if not users[file.path]
    ]


def _add_companions(files: Iterable[ScannedFile], groups: Sequence[FileGroup]) -> None:
    # Other files belong to the only model of the nearest folder that has any.
    homes: defaultdict[str, list[FileGroup]] = defaultdict(list)
    loose = {}
    for group in groups:
        if group.folder:
            homes[group.folder].append(group)
        else:
            loose[group.description_path] = group
    claimed = {file.path for group in groups for file in group.files}
    for file in files:
        if file.path in claimed or _is_projector(file):
            continue
        if not file.folder:
            if (owner := loose.get(file.path)) is not None:
                owner.companions.append(file)
            continue
        nearest = next((homes[at] for at in (file.folder, *ancestors(file.folder)) if at in homes), [])
        if len(nearest) == 1:
            nearest[0].companions.append(file)


def ancestors(folder: str) -> Iterator[str]:
    """Parent folders, the nearest first, without the store itself."""
    while folder := folder.rpartition("/")[0]:
        yield folder


def _is_model_link(link: ScannedLink) -> bool:
    # Many folders have links to small files; these are named like models.
    name = link.path.rpartition("/")[2].lower()
    return name.endswith((".gguf", ".safetensors")) or "." not in name or "/" not in link.path


def shown_name(group: FileGroup) -> str:
    """The path without suffix and shard numbers."""
    match = _SHARD.fullmatch(group.path)
    return match["stem"] if match else group.path.removesuffix(".gguf")
