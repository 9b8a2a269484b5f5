"""The gateway: the HTTP edge of the yard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings, SettingsError
from schemas import buckets
from services.gateway.admin import Admin
from services.gateway.apis import anthropic
from services.gateway.apis.ollama.answers import error_body
from services.gateway.apis.ollama.handlers import PATHS, Ollama
from services.gateway.apis.ollama.listing import Listing
from services.gateway.apis.openai import OpenAI
from services.gateway.apis.over_nats import OverNats
from services.gateway.batches.batches import Batches
from services.gateway.batches.files import Files
from services.gateway.batches.http import FilesAndBatches
from services.gateway.catalog import Catalog
from services.gateway.cross_origin import share
from services.gateway.exposure import Keys, Origins, check_listening
from services.gateway.feed import Feed
from services.gateway.inference.bodies import MAX_BODY_BYTES
from services.gateway.inference.budgets import Admission
from services.gateway.inference.inference import Inference
from services.gateway.logs import Logs
from services.gateway.metrics import Metrics
from services.gateway.middleware import Encode, errors, guard
from services.gateway.page import page_routes
from services.gateway.queue import Queue
from services.gateway.refusals import Refusals
from services.gateway.usage_export import UsageExport

log = logs.get(__name__)

SHUTDOWN_S = 2.0
DASHBOARD = Path(__file__).parent / "dashboard"


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and listen; `Tasks` keeps the rest going."""
    keys = Keys.read(settings.credentials)
    check_listening(settings, keys)
    mirrors: dict[str, BucketCache[Any]] = {
        bucket.name: await BucketCache.start(bus, bucket, tasks) for bucket in buckets.ALL
    }
    catalog = Catalog(
        mirrors[buckets.MODELS.name], mirrors[buckets.INSTANCES.name], mirrors[buckets.WAITING.name]
    )
    inference = Inference(bus, tasks, catalog, Admission(mirrors[buckets.SPENDING.name]))
    Refusals(tasks, catalog, inference)
    feed = Feed(bus, tasks, keys, mirrors)
    await feed.open()
    app = web.Application(
        middlewares=[errors(_shapes()), guard(Origins(settings), keys)], client_max_size=MAX_BODY_BYTES
    )
    app.on_response_prepare.append(share)
    files = Files(bus, mirrors[buckets.FILES.name])
    batches = Batches(bus, tasks, files, mirrors[buckets.BATCHES.name], inference)
    app.router.add_routes(FilesAndBatches(files, batches).routes())
    app.router.add_routes(OpenAI(catalog, inference).routes())
    app.router.add_routes(Ollama(inference, Listing(catalog)).routes())
    app.router.add_routes(Queue(inference).routes())
    app.router.add_routes(Logs(bus).routes())
    app.router.add_routes(UsageExport(bus).routes())
    app.router.add_routes(Metrics(bus, mirrors[buckets.DEVICES.name]).routes())
    app.router.add_routes(Admin(bus, settings, mirrors).routes())
    app.router.add_routes([web.get("/ws", feed.on_connect), *page_routes(DASHBOARD)])
    commands = Commands.open(bus, tasks, "The HTTP edge: OpenAI API, admin API, dashboard.")
    await inference.open(commands)
    batches.open()
    runner = await _listen(app, settings)
    tasks.before_cancel(runner.cleanup)
    tasks.before_cancel(feed.close)
    tasks.before_cancel(inference.close)
    await OverNats(bus, inference).open(commands)
    await commands.announce()


def _shapes() -> Mapping[str, Encode]:
    """Paths whose clients read errors in another shape than the one."""
    return dict.fromkeys(PATHS, error_body) | dict.fromkeys(anthropic.PATHS, anthropic.error_body)


async def _listen(app: web.Application, settings: Settings) -> web.AppRunner:
    # A handler whose client left is cancelled at once; that is how we learn that nobody waits.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"The gateway cannot listen on {settings.host} port {settings.port} ({error.strerror}); "
            "set YARD_PORT to a free port, or end the program that has it."
        ) from error
    log.info("gateway_listens", host=settings.host, port=settings.port)
    return runner
