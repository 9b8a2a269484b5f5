"""Selects the files of a safetensors model: weights, configuration, tokenizer.

Copies of the weights in other formats, precisions and layouts are left out.
"""

import re
from collections.abc import Iterable, Sequence
from operator import attrgetter

from services.downloader.selection.files import RemoteFile, SelectionError

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MODULE = re.compile(r"\d+_[A-Za-z]+")
"""Folder of a sentence-transformers module, such as `1_Pooling`."""
_EXTRA_FOLDERS = frozenset({"additional_chat_templates"})
_TEXTS = (".json", ".jinja", ".model", ".tiktoken", ".txt")
_NOT_TEXTS = (
    ".",
    "description.txt",
    "LICENSE",
    "NOTICE",
    "README",
    "USE_POLICY",
    "requirements",
    "training_args",
    "trainer_state",
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})\.safetensors")
_CONSOLIDATED = re.compile(r"consolidated.*\.safetensors")
_WHOLE = "model.safetensors"
_MAX_TEXT_BYTES = 64 * 1024 * 1024


def has_weights(files: Iterable[RemoteFile]) -> bool:
    """Whether weights are where a model has them."""
    return any(_is_weight(file) for file in files)


def select(repo: str, files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """The files of the model, weights first; SelectionError if no engine serves it."""
    if not {file.path for file in files} & {"config.json", "modules.json"}:
        raise SelectionError(f"{repo} has safetensors but no config.json, so no engine can load them.")
    weights = _without_copies([file for file in files if _is_weight(file)])
    _check_shards(repo, weights)
    chosen = {file.path for file in weights}
    _check_modules(repo, files, chosen)
    texts = [file for file in files if _is_text(file) and not _indexes_others(file.path, chosen)]
    return (*sorted(weights, key=attrgetter("path")), *sorted(texts, key=attrgetter("path")))


def pickles_of(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Weights in pickle files, which Python would run."""
    return tuple(file for file in files if file.path.endswith(_PICKLES) and _is_placed(file.path))


def refuse_pickles(repo: str, pickles: Sequence[RemoteFile]) -> SelectionError:
    """The error for weights that are only there as pickle files."""
    return SelectionError(
        f"{repo} has its weights only as pickle files ({pickles[0].path}), which can hold programs; "
        f"choose a version with safetensors or GGUF, or take the files knowingly with a pattern.",
        "pickle_only",
    )


def refuse_without_model(repo: str, files: Iterable[RemoteFile]) -> SelectionError:
    """The error for a repository without weights that can be used."""
    if pickles := pickles_of(files):
        return refuse_pickles(repo, pickles)
    return SelectionError(
        f"{repo} has no .gguf and no .safetensors model files; choose a GGUF version of it."
    )


def refuse_kind(repo: str, files: Iterable[RemoteFile]) -> None:
    """SelectionError for a kind of repository that no safetensors engine serves."""
    names = {file.path for file in files}
    if "model_index.json" in names:
        raise SelectionError(f"{repo} makes images or videos, which no engine of the yard serves.")
    if "adapter_config.json" in names and not names & {"config.json", "modules.json"}:
        raise SelectionError(f"{repo} is an adapter for another model, not a model of its own.")


def _check_shards(repo: str, weights: Iterable[RemoteFile]) -> None:
    numbers: dict[tuple[str, int], set[int]] = {}
    for file in weights:
        if match := _SHARD.fullmatch(file.path):
            numbers.setdefault((match["stem"], int(match["shards"])), set()).add(int(match["shard"]))
    for (stem, shards), present in numbers.items():
        if missing := shards - len(present & set(range(1, shards + 1))):
            raise SelectionError(f"{repo} lacks {missing} of the {shards} parts of {stem}.safetensors.")


def _check_modules(repo: str, files: Iterable[RemoteFile], chosen: set[str]) -> None:
    # A module that has only pickled weights cannot be left out.
    folders = {path.rpartition("/")[0] for path in chosen}
    pickles = [file for file in pickles_of(files) if file.path.rpartition("/")[0] not in folders]
    if pickles:
        raise refuse_pickles(repo, pickles)


def _without_copies(weights: list[RemoteFile]) -> list[RemoteFile]:
    # Of several layouts in one folder, the one that engines try first.
    unique = []
    for file in weights:
        folder, slash, _ = file.path.rpartition("/")
        beside = [other for other in weights if other.path.rpartition("/")[0] == folder]
        if file in _layout(beside, folder + slash):
            unique.append(file)
    return unique


def _layout(beside: list[RemoteFile], prefix: str) -> list[RemoteFile]:
    names = {file.path.removeprefix(prefix): file for file in beside}
    if _WHOLE in names:
        return [names[_WHOLE]]
    shards = [file for name, file in names.items() if name.startswith("model-") and _SHARD.fullmatch(name)]
    if shards:
        return shards
    usual = [file for name, file in names.items() if not _CONSOLIDATED.fullmatch(name)]
    return usual or beside


def _is_weight(file: RemoteFile) -> bool:
    name = file.path.rpartition("/")[2]
    return name.endswith(".safetensors") and not name.startswith("adapter_") and _is_placed(file.path)


def _is_text(file: RemoteFile) -> bool:
    name = file.path.rpartition("/")[2]
    return (
        name.endswith(_TEXTS)
        and not name.startswith(_NOT_TEXTS)
        and file.size_bytes <= _MAX_TEXT_BYTES
        and _is_placed(file.path, _EXTRA_FOLDERS)
    )


def _is_placed(path: str, more: frozenset[str] = frozenset()) -> bool:
    folder = path.rpartition("/")[0]
    return not folder or folder in more or _MODULE.fullmatch(folder) is not None


def _indexes_others(path: str, chosen: set[str]) -> bool:
    if not path.endswith(".index.json"):
        return False
    stem = path.removesuffix(".index.json").removesuffix(".safetensors")
    return not any(_SHARD.fullmatch(name) and name.startswith(f"{stem}-") for name in chosen)
