"""A model's files before an engine gets them: there, inside the store, and what they claim to be."""

from pathlib import Path

from modelyard.gguf.check import HEAD_BYTES, check_gguf
from modelyard.gguf.errors import GgufError
from modelyard.gguf.files import shard_paths
from modelyard.host.paths import resolve_inside
from modelyard.safetensors import check_safetensors, weights
from schemas.models import ModelSpec
from services.supervisor.engines.base import Engine, EngineProblem, Files


def check_files(spec: ModelSpec, store: Path, engine: Engine) -> Files:
    """The files, resolved; EngineProblem with a sentence for the first that will not do."""
    files = Files(
        model=_inside(store, spec.path, spec),
        mmproj=_there(store, spec.mmproj, spec),
        chat_template=_there(store, spec.chat_template, spec),
        loras=tuple(_existing(store, lora.path, spec) for lora in spec.loras),
    )
    if engine.needs_files:
        _check_model(spec, files.model)
    return files


def missing_files(spec: ModelSpec, store: Path, engine: Engine) -> tuple[str, ...]:
    """The model's files that are not in the store, as its spec names them; EngineProblem for a wrong path."""
    own = [spec.path] if engine.needs_files else []
    more = (spec.mmproj, spec.chat_template, *(lora.path for lora in spec.loras))
    named = [*own, *(path for path in more if path is not None)]
    return tuple(path for path in named if not _inside(store, path, spec).exists())


def not_there(spec: ModelSpec, path: str) -> str:
    """The sentence for a file that is not there."""
    return f"The file {path} of model {spec.name} is not in the store."


def size_bytes(model: Path) -> int:
    """How much there is to load; 0 where that cannot be known."""
    try:
        parts = weights(model) if model.is_dir() else shard_paths(model)
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
        raise EngineProblem(not_there(spec, spec.path)) from None
    except OSError as error:
        raise EngineProblem(f"The file {spec.path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise EngineProblem(f"{spec.path}: {error}") from error


def _there(store: Path, path: str | None, spec: ModelSpec) -> Path | None:
    return None if path is None else _existing(store, path, spec)


def _existing(store: Path, path: str, spec: ModelSpec) -> Path:
    if not (file := _inside(store, path, spec)).is_file():
        raise EngineProblem(not_there(spec, path))
    return file


def _inside(store: Path, path: str, spec: ModelSpec) -> Path:
    try:
        return resolve_inside(store, path)
    except ValueError as error:
        raise EngineProblem(f"{path} of model {spec.name}: {error}") from error
