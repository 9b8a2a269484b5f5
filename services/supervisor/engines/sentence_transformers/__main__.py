"""`python -m …sentence_transformers OPTIONS`: loads the model, then serves it on a free loopback port."""

import asyncio
import signal
import sys

import msgspec
from aiohttp import web

from modelyard.bus import logs
from schemas.errors import YardError
from schemas.models import Mode
from services.supervisor.engines.sentence_transformers import SentenceServerOptions
from services.supervisor.engines.sentence_transformers.app import EmbeddingsEndpoint, RerankEndpoint, make_app
from services.supervisor.engines.sentence_transformers.model import ModelProblem

_SHUTDOWN_S = 1.0


def load(options: SentenceServerOptions) -> EmbeddingsEndpoint | RerankEndpoint:
    """The endpoint of the loaded model. torch is imported here, so that tests of this module do without."""
    from services.supervisor.engines.sentence_transformers.loaded import LoadedEncoder, LoadedRanker

    if options.mode is Mode.RERANK:
        return RerankEndpoint(LoadedRanker(options), options)
    return EmbeddingsEndpoint(LoadedEncoder(options), options)


async def serve(app: web.Application) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A handler is cancelled when its client disconnects, and its items are dropped.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stderr.write(f"listening on http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stderr.flush()
    await stop.wait()
    await runner.cleanup()


def main() -> int:
    logs.configure("info")
    options = msgspec.json.decode(sys.argv[1], type=SentenceServerOptions)
    try:
        endpoint = load(options)
    except (ModelProblem, YardError, OSError, ValueError, RuntimeError, ImportError) as error:
        sys.stderr.write(f"error: {options.name} cannot be loaded: {error}\n")
        return 1
    asyncio.run(serve(make_app(endpoint, options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
