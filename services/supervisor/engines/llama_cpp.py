"""llama.cpp's llama-server, where there is one on this machine."""

import re
import shutil
from pathlib import Path

from modelyard.settings import Settings
from schemas.instances import EngineOffer
from schemas.models import Mode, ModelSpec
from services.supervisor.engines.base import EngineProblem, Files, ServerCommand, minimal_environment

_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_MODE_ARGS = {Mode.EMBEDDING: ("--embedding",), Mode.RERANK: ("--reranking",)}


def listening_port(line: str) -> int | None:
    """The port in llama.cpp's own line about it."""
    match = _LISTENING.search(line)
    return int(match[1]) if match else None


class LlamaCpp:
    """llama-server from YARD_LLAMA_SERVER or PATH."""

    name = "llama.cpp"

    def offer(self, settings: Settings) -> EngineOffer:
        found = _find(settings)
        problem = None if found else "There is no llama-server on PATH; set YARD_LLAMA_SERVER to one."
        return EngineOffer(engine=self.name, problem=problem)

    def command(self, spec: ModelSpec, files: Files, settings: Settings) -> ServerCommand:
        program = _find(settings)
        if program is None:
            raise EngineProblem("There is no llama-server on PATH; set YARD_LLAMA_SERVER to one.")
        argv = (str(program), *_arguments(spec, files), *_MODE_ARGS.get(spec.mode, ()), *spec.args)
        return ServerCommand(argv=argv, env=minimal_environment())

    def port(self, line: str) -> int | None:
        return listening_port(line)


def _find(settings: Settings) -> Path | None:
    on_path = shutil.which("llama-server")
    return settings.llama_server or (Path(on_path) if on_path else None)


def _arguments(spec: ModelSpec, files: Files) -> list[str]:
    values = {
        "--model": files.model,
        "--mmproj": files.mmproj,
        "--alias": spec.name,
        "--host": "127.0.0.1",
        "--port": 0,
        "--parallel": spec.n_parallel,
        "--ctx-size": spec.n_ctx,
    }
    pairs = [text for flag, value in values.items() if value is not None for text in (flag, str(value))]
    return [*pairs, "--kv-unified", "--metrics", "--slots", "--jinja"]
