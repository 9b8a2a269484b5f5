"""The embedded engine: llama.cpp's server from the xllamacpp wheel, in a process of its own."""

import os
import signal
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from modelyard.host.settings import Settings
from modelyard.plugins import ModelFiles, ServerCommand, engine_environment
from schemas.base import Format, Record
from schemas.instances import EngineOffer, Placement
from schemas.models import Mode, ModelSpec
from services.supervisor.engines.llama_cpp import LlamaServerEngine, gpu_layers, tensor_split

_POOLING_RANK = 4
"""llama.cpp's LLAMA_POOLING_TYPE_RANK."""


class EmbeddedServerOptions(Record):
    model: str
    alias: str
    mode: Mode
    n_parallel: int
    n_ctx: int
    mmproj: str | None = None
    chat_template: str | None = None
    """A file."""
    loras: tuple[tuple[str, float], ...] = ()
    """Files, each with its scale."""
    cache_type: str = "f16"
    n_gpu_layers: int | None = None
    tensor_split: tuple[int, ...] = ()


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
        module = "services.supervisor.engines.embedded"
        argv = (sys.executable, "-m", module, msgspec.json.encode(options).decode())
        return ServerCommand(argv=argv, env=engine_environment(spec, placement))


def serve(options: EmbeddedServerOptions) -> None:
    """Load the model and serve it on a free loopback port until SIGTERM. llama.cpp logs to standard error."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    _set_model(params, options)
    _set_memory(params, options)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_slots = True
    # The server runs in threads of its own until this object is deleted.
    server = xllamacpp.Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # Its destructor can wait forever for a loop that has not started; the kernel cleans up as well.
    del server
    os._exit(0)


def _set_model(params: Any, options: EmbeddedServerOptions) -> None:
    import xllamacpp

    params.model.path = options.model
    params.model_alias = {options.alias}
    params.use_jinja = True
    if options.mmproj:
        params.mmproj.path = options.mmproj
    if options.chat_template:
        params.chat_template = Path(options.chat_template).read_text()
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in options.loras]
    if options.mode in (Mode.EMBEDDING, Mode.RERANK):
        params.embedding = True
    if options.mode is Mode.RERANK:
        params.pooling_type = _POOLING_RANK


def _set_memory(params: Any, options: EmbeddedServerOptions) -> None:
    import xllamacpp

    params.n_parallel = options.n_parallel
    params.n_ctx = options.n_ctx
    params.kv_unified = True
    cache_type = xllamacpp.ggml_type[f"GGML_TYPE_{options.cache_type.upper()}"]
    params.cache_type_k = params.cache_type_v = cache_type
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    # The attribute returns a copy, with an entry for every possible device.
    split = params.tensor_split
    split[: len(options.tensor_split)] = [float(share) for share in options.tensor_split]
    params.tensor_split = split


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    options = msgspec.json.decode(sys.argv[1], type=EmbeddedServerOptions)
    try:
        serve(options)
    except RuntimeError as error:
        # llama.cpp has logged the reason; os._exit for the same cause as in `serve`.
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
