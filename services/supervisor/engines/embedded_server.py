"""The process of the embedded engine: `python -m … OPTIONS`, where OPTIONS is one JSON document."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from schemas.base import Record
from schemas.models import Mode

_POOLING_RANK = 4
"""llama.cpp's LLAMA_POOLING_TYPE_RANK."""


class Options(Record):
    """What the server is started with."""

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


def serve(options: Options) -> None:
    """Load and serve on a free loopback port until SIGTERM. llama.cpp reports on standard error."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    _set_model(params, options)
    _set_memory(params, options)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_slots = True
    # The server runs on threads of its own until this object goes; nothing else is left to do here.
    server = xllamacpp.Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # Its destructor can wait forever for a loop that has not begun; the kernel cleans up as well.
    del server
    os._exit(0)


def _set_model(params: Any, options: Options) -> None:
    """What is served."""
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


def _set_memory(params: Any, options: Options) -> None:
    """How much is kept, and where."""
    import xllamacpp

    params.n_parallel = options.n_parallel
    params.n_ctx = options.n_ctx
    params.kv_unified = True
    cache_type = xllamacpp.ggml_type[f"GGML_TYPE_{options.cache_type.upper()}"]
    params.cache_type_k = params.cache_type_v = cache_type
    if options.n_gpu_layers is not None:
        params.n_gpu_layers = options.n_gpu_layers
    # What is read is a copy, with a number for every device there could be.
    split = params.tensor_split
    split[: len(options.tensor_split)] = [float(share) for share in options.tensor_split]
    params.tensor_split = split


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    options = msgspec.json.decode(sys.argv[1], type=Options)
    try:
        serve(options)
    except RuntimeError as error:
        # The reason stands in the lines before; os._exit for the same cause as above.
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
