"""The process of the embedded engine: `python -m … OPTIONS`, where OPTIONS is one JSON document."""

import os
import signal
import sys

import msgspec

from schemas.models import Mode
from schemas.record import Record

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


def serve(options: Options) -> None:
    """Load and serve on a free loopback port until SIGTERM. llama.cpp reports on standard error."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = options.n_parallel
    params.n_ctx = options.n_ctx
    params.kv_unified = True
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.use_jinja = True
    if options.mmproj:
        params.mmproj.path = options.mmproj
    if options.mode is not Mode.CHAT:
        params.embedding = True
    if options.mode is Mode.RERANK:
        params.pooling_type = _POOLING_RANK
    # The server runs on threads of its own until this object goes; nothing else is left to do here.
    server = xllamacpp.Server(params)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # Its destructor can wait forever for a loop that has not begun; the kernel cleans up as well.
    del server
    os._exit(0)


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
