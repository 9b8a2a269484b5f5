"""The engines: adapters for each kind of server process. `choose` finds the one for a model."""

from modelyard.settings import Settings
from schemas.instances import EngineOffer
from schemas.models import ModelSpec
from services.supervisor.engines.base import Engine, EngineProblem
from services.supervisor.engines.embedded import Embedded
from services.supervisor.engines.llama_cpp import LlamaCpp

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (LlamaCpp(), Embedded())}
"""In order of preference for `auto`."""


def offers(settings: Settings) -> tuple[EngineOffer, ...]:
    """What this node can run, and why not where it cannot."""
    return tuple(engine.offer(settings) for engine in ENGINES.values())


def choose(spec: ModelSpec, settings: Settings) -> Engine:
    """The engine for a model on this node; EngineProblem with a sentence if there is none."""
    if spec.engine == "auto":
        usable = [name for name, engine in ENGINES.items() if engine.offer(settings).problem is None]
        if not usable:
            raise EngineProblem("No engine can be used on this node; install llama.cpp's llama-server.")
        return ENGINES[usable[0]]
    engine = ENGINES.get(spec.engine)
    if engine is None:
        raise EngineProblem(f"There is no engine {spec.engine}; there are {', '.join(ENGINES)} and auto.")
    if (problem := engine.offer(settings).problem) is not None:
        raise EngineProblem(problem)
    return engine
