"""The gateway: the HTTP edge of the yard."""

import asyncio
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
from schemas.buckets import Bucket
from services.gateway.access import ApiKeys, Origins, check_exposure
from services.gateway.admin import AdminApi, QueueApi
from services.gateway.apis.nats import NatsApi
from services.gateway.apis.ollama.answers import error_body
from services.gateway.apis.ollama.handlers import PATHS, OllamaApi
from services.gateway.apis.ollama.listing import ModelListing
from services.gateway.apis.openai import OpenAIApi
from services.gateway.apis.reply import ANTHROPIC_PATHS, anthropic_error
from services.gateway.batches.batches import BatchService
from services.gateway.batches.http import BatchApi
from services.gateway.batches.storage import FileStore
from services.gateway.catalog import Catalog
from services.gateway.feed import Feed
from services.gateway.http import add_cors_headers, guard, handle_errors, page_routes
from services.gateway.inference.inference import Inference
from services.gateway.inference.publisher import MAX_BODY_BYTES
from services.gateway.inference.queue import BudgetAdmission
from services.gateway.logs import LogsApi
from services.gateway.metrics import MetricsApi
from services.gateway.usage_export import UsageExportApi

log = logs.get(__name__)

SHUTDOWN_TIMEOUT_S = 2.0
DASHBOARD = Path(__file__).parent / "dashboard"
PAGE_BUCKETS: tuple[Bucket[Any], ...] = (
    *(buckets.MODELS, buckets.INSTANCES, buckets.WAITING, buckets.NODES, buckets.DEVICES, buckets.ADAPTERS),
    *(buckets.DOWNLOADS, buckets.LIBRARY, buckets.STORES, buckets.TRASH, buckets.JOBS),
    *(buckets.SPENDING, buckets.ALERT_STATES, buckets.SILENCES),
)
"""What the page shows, and so what every gateway follows; its own work needs some of them, too."""


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    keys = ApiKeys.read(settings.credentials)
    check_exposure(settings, keys)
    followed: tuple[Bucket[Any], ...] = (*PAGE_BUCKETS, buckets.FILES, buckets.BATCHES)
    started = await asyncio.gather(*(BucketCache.start(bus, bucket, tasks) for bucket in followed))
    caches: dict[str, BucketCache[Any]]
    caches = {bucket.name: cache for bucket, cache in zip(followed, started, strict=True)}
    catalog = Catalog(
        caches[buckets.MODELS.name], caches[buckets.INSTANCES.name], caches[buckets.WAITING.name]
    )
    inference = Inference(bus, tasks, catalog, BudgetAdmission(caches[buckets.SPENDING.name]))
    feed = Feed(bus, tasks, keys, {bucket.name: caches[bucket.name] for bucket in PAGE_BUCKETS})
    await feed.open()
    files = FileStore(bus, caches[buckets.FILES.name])
    batches = BatchService(bus, tasks, files, caches[buckets.BATCHES.name], inference)
    encoders = dict.fromkeys(PATHS, error_body) | dict.fromkeys(ANTHROPIC_PATHS, anthropic_error)
    middlewares = [handle_errors(encoders), guard(Origins(settings), keys)]
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(add_cors_headers)
    # Before OpenAI's routes, whose last one takes every path below `/v1/`.
    app.router.add_routes(BatchApi(files, batches).routes())
    app.router.add_routes(OpenAIApi(catalog, inference).routes())
    app.router.add_routes(OllamaApi(inference, ModelListing(catalog)).routes())
    app.router.add_routes(QueueApi(inference).routes())
    app.router.add_routes(LogsApi(bus).routes())
    app.router.add_routes(UsageExportApi(bus).routes())
    app.router.add_routes(MetricsApi(bus, caches[buckets.DEVICES.name]).routes())
    app.router.add_routes(AdminApi(bus, settings, caches).routes())
    app.router.add_routes([web.get("/ws", feed.on_connect), *page_routes(DASHBOARD)])
    commands = Commands.open(bus, tasks, "The HTTP edge: OpenAI API, admin API, dashboard.")
    await inference.open(commands)
    batches.open()
    runner = await _listen(app, settings)
    tasks.before_cancel(runner.cleanup)
    tasks.before_cancel(feed.close)
    tasks.before_cancel(inference.close)
    await NatsApi(bus, inference).open(commands)
    await commands.announce()


async def _listen(app: web.Application, settings: Settings) -> web.AppRunner:
    # The handler of a client that left is cancelled at once, which cancels its request.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        await runner.cleanup()
        raise SettingsError(
            f"The gateway cannot listen on {settings.host} port {settings.port} ({error.strerror}); "
            "set YARD_PORT to a free port, or end the program that has it."
        ) from error
    log.info("gateway_listening", host=settings.host, port=settings.port)
    return runner
