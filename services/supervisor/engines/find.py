"""Where engines come from: Python entry points, ours among them, and YARD_HOME/plugins/engines."""

import time

from modelyard.host.settings import Settings
from modelyard.plugins import Sort
from schemas.base import Record
from schemas.instances import EngineOffer
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


_POLL_S = 0.1


class Found(Record):
    """The engines by name, in order of preference, and what could not be loaded."""

    engines: dict[str, Engine]
    broken: tuple[EngineOffer, ...]
    complete: bool = True
    """Not if a plugin is still being read."""


def find(settings: Settings) -> Found:
    """What there is now."""
    found = _ENGINES.find(settings.engine_plugins)
    broken = tuple(EngineOffer(engine=one.name, problem=one.problem) for one in found.broken)
    complete = not any(one.at_work for one in found.broken)
    return Found(engines=found.plugins, broken=broken, complete=complete)


def find_named(name: str, settings: Settings, timeout_s: float) -> Found:
    """What there is of this name; plugins are looked at only where no package has it, and waited for."""
    if (engine := _ENGINES.installed().plugins.get(name)) is not None:
        return Found(engines={name: engine}, broken=())
    until = time.monotonic() + timeout_s
    while True:
        found = find(settings)
        if name in found.engines or found.complete or time.monotonic() >= until:
            return found
        time.sleep(_POLL_S)
