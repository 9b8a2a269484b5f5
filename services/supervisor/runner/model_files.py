"""Checks a model's files: they exist, are inside the store, and have the right format."""

from pathlib import Path

from modelyard.files.gguf.parse import HEAD_BYTES, GgufError, check_gguf
from modelyard.files.gguf.reader import shard_paths
from modelyard.files.safetensors import check_safetensors, weight_files
from modelyard.host.paths import resolve_inside
from modelyard.plugins import Engine, EngineProblem, ModelFiles
from schemas.models import ModelSpec


def check_files(spec: ModelSpec, store: Path, engine: Engine) -> ModelFiles:
    """The files, resolved; EngineProblem with a sentence for the first that is unusable."""
    files = ModelFiles(
        model=_inside(store, spec.path, spec),
        mmproj=_optional(store, spec.mmproj, spec),
        chat_template=_optional(store, spec.chat_template, spec),
        loras=tuple(_existing(store, lora.path, spec) for lora in spec.loras),
    )
    if engine.needs_files:
        _check_model(spec, files.model)
    return files


def missing_files(spec: ModelSpec, store: Path, engine: Engine) -> tuple[str, ...]:
    """The paths of the spec that are not in the store; EngineProblem for one outside it."""
    own = [spec.path] if engine.needs_files else []
    paths = (*own, spec.mmproj, spec.chat_template, *(lora.path for lora in spec.loras))
    return tuple(path for path in paths if path is not None and not _inside(store, path, spec).exists())


def missing_file_problem(spec: ModelSpec, path: str) -> str:
    """The sentence about a missing file."""
    return f"The file {path} of model {spec.name} is not in the store."


def size_bytes(model: Path) -> int:
    """The size of the weights; 0 if it is unknown."""
    try:
        parts = weight_files(model) if model.is_dir() else shard_paths(model)
        return sum(path.stat().st_size for path in parts)
    except (OSError, GgufError):
        return 0


def _check_model(spec: ModelSpec, model: Path) -> None:
    try:
        if model.is_dir():
            check_safetensors(model)
            return
        with model.open("rb") as file:
            check_gguf(file.read(HEAD_BYTES), model.stat().st_size)
        shard_paths(model)
    except FileNotFoundError:
        raise EngineProblem(missing_file_problem(spec, spec.path)) from None
    except OSError as error:
        raise EngineProblem(f"The file {spec.path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise EngineProblem(f"{spec.path}: {error}") from error


def _optional(store: Path, path: str | None, spec: ModelSpec) -> Path | None:
    return None if path is None else _existing(store, path, spec)


def _existing(store: Path, path: str, spec: ModelSpec) -> Path:
    if not (file := _inside(store, path, spec)).is_file():
        raise EngineProblem(missing_file_problem(spec, path))
    return file


def _inside(store: Path, path: str, spec: ModelSpec) -> Path:
    try:
        return resolve_inside(store, path)
    except ValueError as error:
        raise EngineProblem(f"{path} of model {spec.name}: {error}") from error
