"""The embedded engine: llama.cpp's server out of the xllamacpp wheel, as a process of its own."""

import sys
from importlib.util import find_spec

import msgspec

from modelyard.settings import Settings
from schemas.instances import EngineOffer
from schemas.models import ModelSpec
from services.supervisor.engines.base import EngineProblem, Files, ServerCommand, minimal_environment
from services.supervisor.engines.embedded_server import Options
from services.supervisor.engines.llama_cpp import listening_port


class Embedded:
    """Needs nothing but the wheel; runs on the CPU, or where the installed wheel was built for."""

    name = "embedded"

    def offer(self, settings: Settings) -> EngineOffer:
        problem = None if find_spec("xllamacpp") else "The Python package xllamacpp is not installed."
        return EngineOffer(engine=self.name, problem=problem)

    def command(self, spec: ModelSpec, files: Files, settings: Settings) -> ServerCommand:
        if spec.args:
            raise EngineProblem("The embedded engine takes no further arguments; use llama-server for them.")
        options = Options(
            model=str(files.model),
            mmproj=str(files.mmproj) if files.mmproj else None,
            alias=spec.name,
            mode=spec.mode,
            n_parallel=spec.n_parallel,
            n_ctx=spec.n_ctx,
        )
        module = "services.supervisor.engines.embedded_server"
        argv = (sys.executable, "-m", module, msgspec.json.encode(options).decode())
        return ServerCommand(argv=argv, env=minimal_environment())

    def port(self, line: str) -> int | None:
        return listening_port(line)
