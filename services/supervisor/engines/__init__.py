"""The engines: adapters for each kind of server process. `choose` finds the one for a model."""

from functools import partial

from modelyard.host.settings import Settings
from modelyard.host.threads import TimedCalls
from modelyard.plugins import TIMEOUT_S
from schemas.base import Format
from schemas.instances import EngineOffer
from schemas.models import ModelSpec
from services.supervisor.engines.base import Engine, EngineProblem
from services.supervisor.engines.find import Found, find, find_named

_PATIENCE = TimedCalls()
"""With engines of strangers: the node must go on whatever they do."""


def offers(settings: Settings) -> tuple[EngineOffer, ...]:
    """What this node can run, and why not where it cannot; also the plugins that are broken."""
    found = find(settings)
    return (*(_offer(engine, settings) for engine in found.engines.values()), *found.broken)


def choose(spec: ModelSpec, settings: Settings, *, timeout_s: float = 0.0) -> Engine:
    """The engine for a model on this node; EngineProblem with a sentence if there is none.

    `timeout_s`: how long a plugin may take to be read.
    """
    kind = format_of(spec, settings)
    if spec.engine == "auto":
        return _first_usable(spec, kind, settings)
    found = find_named(spec.engine, settings, timeout_s)
    if (engine := found.engines.get(spec.engine)) is None:
        raise EngineProblem(_why_not_there(spec.engine, found))
    if (problem := _refusal(engine, spec, kind) or _offer(engine, settings).problem) is not None:
        raise EngineProblem(problem)
    return engine


def _why_not_there(name: str, found: Found) -> str:
    broken = [offer.problem for offer in found.broken if offer.engine == name and offer.problem]
    return (
        broken[0] if broken else f"There is no engine {name}; there are {', '.join(found.engines)} and auto."
    )


def format_of(spec: ModelSpec, settings: Settings) -> Format:
    """What the model's path leads to on this node; of what is not there, what it is most likely."""
    path = settings.store_of(spec.path) / spec.path
    is_folder = path.is_dir() if path.exists() else path.suffix.lower() != ".gguf"
    return Format.SAFETENSORS if is_folder else Format.GGUF


def _first_usable(spec: ModelSpec, kind: Format, settings: Settings) -> Engine:
    problems = []
    for name, engine in find(settings).engines.items():
        if not engine.automatic or _refusal(engine, spec, kind) is not None:
            continue
        if (problem := _offer(engine, settings).problem) is None:
            return engine
        problems.append(f"{name}: {problem}")
    if problems:
        raise EngineProblem(f"No engine for {spec.name} can be used on this node. {' '.join(problems)}")
    raise EngineProblem(f"No engine serves {kind} models for {spec.mode}; name the engine of {spec.name}.")


def _refusal(engine: Engine, spec: ModelSpec, kind: Format) -> str | None:
    try:
        return _PATIENCE.call((id(engine), "refusal"), partial(engine.refusal, spec, kind), TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - one that a stranger wrote must not hide the others
        return f"The engine {engine.name} cannot be asked: {type(error).__name__}: {error}"


def _offer(engine: Engine, settings: Settings) -> EngineOffer:
    try:
        return _PATIENCE.call((id(engine), "offer"), partial(engine.offer, settings), TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - one that a stranger wrote must not hide the others
        return EngineOffer(
            engine=engine.name, problem=f"The engine cannot be asked: {type(error).__name__}: {error}"
        )
