"""`python -m …sentence_server OPTIONS`: load the model, then serve it on a free loopback port."""

import asyncio
import signal
import sys

import msgspec
from aiohttp import web

from modelyard.bus import logs
from schemas.errors import YardError
from schemas.models import Mode
from services.supervisor.engines.sentence_server.app import Embeddings, Reranking, make_app
from services.supervisor.engines.sentence_server.model import ModelProblem
from services.supervisor.engines.sentence_server.options import Options

_SHUTDOWN_S = 1.0


def load(options: Options) -> Embeddings | Reranking:
    """The model behind its endpoint. Whoever imports this module does not import torch."""
    from services.supervisor.engines.sentence_server.loaded import LoadedEncoder, LoadedRanker

    if options.mode is Mode.RERANK:
        return Reranking(LoadedRanker(options), options)
    return Embeddings(LoadedEncoder(options), options)


async def serve(app: web.Application) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A client that left wants nothing computed.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stderr.write(f"listening on http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stderr.flush()
    await stop.wait()
    await runner.cleanup()


def main() -> int:
    logs.configure("info")
    options = msgspec.json.decode(sys.argv[1], type=Options)
    try:
        endpoint = load(options)
    except (ModelProblem, YardError, OSError, ValueError, RuntimeError, ImportError) as error:
        sys.stderr.write(f"error: {options.name} cannot be loaded: {error}\n")
        return 1
    asyncio.run(serve(make_app(endpoint, options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
