"""Where engines come from: Python entry points, ours among them, and YARD_HOME/plugins/engines."""

from modelyard.plugins import PATIENCE_S, Sort
from modelyard.settings import Settings
from schemas.instances import EngineOffer
from schemas.record import Record
from services.supervisor.engines.base import Engine, checked

BUILT_IN = {
    "llama.cpp": "services.supervisor.engines.llama_cpp:LlamaCpp",
    "embedded": "services.supervisor.engines.embedded:Embedded",
    "sentence-transformers": "services.supervisor.engines.sentences:SentenceTransformers",
    "vllm": "services.supervisor.engines.vllm:Vllm",
    "command": "services.supervisor.engines.command:Command",
}
"""Ours, in order of preference for `auto`."""
GROUP = "modelyard.engines"
_ENGINES: Sort[Engine] = Sort("engine", GROUP, BUILT_IN, Engine, checked)


class Found(Record):
    """The engines by name, in order of preference, and what could not be loaded."""

    engines: dict[str, Engine]
    broken: tuple[EngineOffer, ...]


def find(settings: Settings, patience_s: float = PATIENCE_S) -> Found:
    """What there is now."""
    found = _ENGINES.find(settings.engine_plugins, patience_s)
    broken = tuple(EngineOffer(engine=one.name, problem=one.problem) for one in found.broken)
    return Found(engines=found.plugins, broken=broken)
