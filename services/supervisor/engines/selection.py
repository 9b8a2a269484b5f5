"""Which engines a node has, which one serves a model, and the model's files."""

import time
from functools import partial
from pathlib import Path

from modelyard.files.gguf.parse import HEAD_BYTES, GgufError, check_gguf
from modelyard.files.gguf.reader import shard_paths
from modelyard.files.safetensors import check_safetensors, weight_files
from modelyard.host.paths import resolve_inside
from modelyard.host.plugins import SCAN_TIMEOUT_S, DiscoveredPlugins
from modelyard.host.settings import Settings
from modelyard.host.threads import TimedCalls
from modelyard.plugins import Engine, EngineProblem, ModelFiles
from modelyard.plugins.engines import ENGINES
from schemas.base import Format
from schemas.instances import EngineOffer
from schemas.models import ModelSpec

_RESCAN_S = 0.1
_CALLS = TimedCalls()
"""Calls into engines of plugins: one that hangs must not stop the node."""


def engine_offers(settings: Settings) -> tuple[EngineOffer, ...]:
    """The engines of this node by preference, each with its problem if it has one; broken plugins last."""
    discovered = ENGINES.discover(settings.engine_plugins)
    broken = (EngineOffer(engine=error.name, problem=error.problem) for error in discovered.errors)
    return (*(_offer(engine, settings) for engine in _by_preference(discovered)), *broken)


def choose_engine(spec: ModelSpec, settings: Settings, *, timeout_s: float = 0.0) -> Engine:
    """The engine for a model on this node; EngineProblem with a sentence if there is none.

    `timeout_s`: how long a plugin may take to load.
    """
    model_format = format_of(spec, settings)
    if spec.engine == "auto":
        return _choose_automatically(spec, model_format, settings)
    engine = _find(spec.engine, settings, timeout_s)
    if (problem := _refusal(engine, spec, model_format) or _offer(engine, settings).problem) is not None:
        raise EngineProblem(problem)
    return engine


def format_of(spec: ModelSpec, settings: Settings) -> Format:
    """The format of the model's path on this node; of a missing path, the likely one."""
    path = settings.store_of(spec.path) / spec.path
    is_folder = path.is_dir() if path.exists() else path.suffix.lower() != ".gguf"
    return Format.SAFETENSORS if is_folder else Format.GGUF


def _find(name: str, settings: Settings, timeout_s: float) -> Engine:
    """The engine of this name; the plugin folder is scanned only if no package has it."""
    if (installed := ENGINES.installed().plugins.get(name)) is not None:
        return installed
    deadline = time.monotonic() + timeout_s
    while True:
        discovered = ENGINES.discover(settings.engine_plugins)
        if (engine := discovered.plugins.get(name)) is not None:
            return engine
        if discovered.complete or time.monotonic() >= deadline:
            raise EngineProblem(_not_found(name, discovered))
        time.sleep(_RESCAN_S)


def _not_found(name: str, discovered: DiscoveredPlugins[Engine]) -> str:
    known = ", ".join(engine.name for engine in _by_preference(discovered))
    problems = (error.problem for error in discovered.errors if error.name == name)
    return next(problems, f"There is no engine {name}; there are {known} and auto.")


def _by_preference(discovered: DiscoveredPlugins[Engine]) -> list[Engine]:
    return sorted(discovered.plugins.values(), key=lambda engine: engine.preference)


def _choose_automatically(spec: ModelSpec, model_format: Format, settings: Settings) -> Engine:
    problems = []
    for engine in _by_preference(ENGINES.discover(settings.engine_plugins)):
        if not engine.automatic or _refusal(engine, spec, model_format) is not None:
            continue
        if (problem := _offer(engine, settings).problem) is None:
            return engine
        problems.append(f"{engine.name}: {problem}")
    if problems:
        raise EngineProblem(f"No engine for {spec.name} can be used on this node. {' '.join(problems)}")
    raise EngineProblem(
        f"No engine serves {model_format} models for {spec.mode}; name the engine of {spec.name}."
    )


def _refusal(engine: Engine, spec: ModelSpec, model_format: Format) -> str | None:
    try:
        call = partial(engine.refusal, spec, model_format)
        return _CALLS.call((id(engine), "refusal"), call, SCAN_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - an engine of a plugin must not hide the others
        return f"The engine {engine.name} cannot be used: {type(error).__name__}: {error}"


def _offer(engine: Engine, settings: Settings) -> EngineOffer:
    try:
        return _CALLS.call((id(engine), "offer"), partial(engine.offer, settings), SCAN_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - an engine of a plugin must not hide the others
        problem = f"The engine cannot be used: {type(error).__name__}: {error}"
        return EngineOffer(engine=engine.name, problem=problem)


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
