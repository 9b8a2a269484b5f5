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


class EmbeddedServerOptions(Record):
    """The start options of the server."""

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
