"""The embedded engine: llama.cpp's server from the xllamacpp wheel, in a process of its own."""

import sys
from importlib.metadata import version
from importlib.util import find_spec

import msgspec

from modelyard.host.settings import Settings
from modelyard.plugins import ModelFiles, ServerCommand, engine_environment
from schemas.base import Format
from schemas.instances import EngineOffer, Placement
from schemas.models import ModelSpec
from services.supervisor.engines.embedded_server import EmbeddedServerOptions
from services.supervisor.engines.llama_cpp import (
    LlamaServerEngine,
    gpu_layers,
    tensor_split,
)


class EmbeddedEngine(LlamaServerEngine):
    """Needs only the wheel; runs on the CPU, or on the devices that the installed wheel was built for."""

    name = "embedded"
    preference = 20

    def offer(self, settings: Settings) -> EngineOffer:
        if find_spec("xllamacpp") is None:
            return EngineOffer(engine=self.name, problem="The Python package xllamacpp is not installed.")
        return EngineOffer(engine=self.name, version=version("xllamacpp"))

    def refusal(self, spec: ModelSpec, model_format: Format) -> str | None:
        if spec.args:
            return "The embedded engine takes no further arguments; use llama-server for them."
        return super().refusal(spec, model_format)

    def command(
        self, spec: ModelSpec, files: ModelFiles, placement: Placement, port: int, settings: Settings
    ) -> ServerCommand:
        options = EmbeddedServerOptions(
            model=str(files.model),
            mmproj=str(files.mmproj) if files.mmproj else None,
            chat_template=str(files.chat_template) if files.chat_template else None,
            loras=tuple((str(path), lora.scale) for path, lora in zip(files.loras, spec.loras, strict=True)),
            alias=spec.name,
            mode=spec.mode,
            n_parallel=spec.n_parallel,
            n_ctx=spec.n_ctx,
            cache_type=spec.cache_type,
            n_gpu_layers=gpu_layers(placement),
            tensor_split=tuple(tensor_split(placement)),
        )
        module = "services.supervisor.engines.embedded_server"
        argv = (sys.executable, "-m", module, msgspec.json.encode(options).decode())
        return ServerCommand(argv=argv, env=engine_environment(spec, placement))
