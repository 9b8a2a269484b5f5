"""Where engines come from: Python entry points, ours among them, and the plugin folder."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from modelyard.settings import Settings
from schemas.instances import EngineOffer
from schemas.record import Record
from services.supervisor.engines.base import Engine, checked
from services.supervisor.engines.plugins import PluginFolder

GROUP = "modelyard.engines"
BUILT_IN = {
    "llama.cpp": "services.supervisor.engines.llama_cpp:LlamaCpp",
    "embedded": "services.supervisor.engines.embedded:Embedded",
    "sentence-transformers": "services.supervisor.engines.sentences:SentenceTransformers",
    "vllm": "services.supervisor.engines.vllm:Vllm",
    "command": "services.supervisor.engines.command:Command",
}
"""Ours, in order of preference for `auto`; entry points too, which a source tree does not have."""


class Found(Record):
    """The engines by name, in order of preference, and what could not be loaded."""

    engines: dict[str, Engine]
    broken: tuple[EngineOffer, ...]


def find(settings: Settings) -> Found:
    """What there is now. Plugins are looked at anew; installed packages are those of the start."""
    installed = _installed()
    plugins, broken = _folder(settings.engine_plugins).look()
    return _merged([*installed.engines.values(), *plugins], [*installed.broken, *broken])


def _merged(found: list[Engine], broken: list[EngineOffer]) -> Found:
    """The first of a name has it."""
    engines: dict[str, Engine] = {}
    for engine in found:
        if engine.name in engines:
            problem = f"The engine of {type(engine).__module__} needs another name: {engine.name} is taken."
            broken = [*broken, EngineOffer(engine=engine.name, problem=problem)]
        else:
            engines[engine.name] = engine
    return Found(engines=engines, broken=tuple(broken))


@cache
def _installed() -> Found:
    points = {name: EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()}
    for point in entry_points(group=GROUP):
        points.setdefault(point.name, point)
    engines, broken = [], []
    for name, point in points.items():
        try:
            engines.append(checked(point.load()()))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's package may raise anything
            problem = f"{point.value} cannot be loaded: {type(error).__name__}: {error}"
            broken.append(EngineOffer(engine=name, problem=problem))
    return _merged(engines, broken)


@cache
def _folder(path: Path) -> PluginFolder:
    return PluginFolder(path)
