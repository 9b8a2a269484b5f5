"""A downloader on the test's broker, with a registry that accepts every model."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.base import Role
from schemas.downloads import Download, DownloadState, StartDownload
from schemas.models import ModelStored
from schemas.registry import PutModel
from services.downloader.service import main
from tests.support import Yard

TIMEOUT_S = 30.0


class Registry:
    """Accepts every model."""

    def __init__(self) -> None:
        self.models: dict[str, PutModel] = {}

    async def put(self, model: PutModel) -> ModelStored:
        self.models[model.name] = model
        return ModelStored(name=model.name, revision=len(self.models))


class Queue:
    """The downloads as an operator sees and controls them."""

    def __init__(self, yard: Yard, downloads: BucketCache[Download], registry: Registry) -> None:
        self.yard = yard
        self.downloads = downloads
        self.registry = registry

    async def start(self, reference: str, **more: object) -> Download:
        order = msgspec.convert({"reference": reference, **more}, StartDownload)
        return await (await self.yard.bus()).call(subjects.DOWNLOAD_START, order)

    async def until(self, condition: Callable[[dict[str, Download]], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await self.downloads.until(condition)

    async def until_state(self, download: Download, *states: DownloadState) -> Download:
        key = download.download
        await self.until(lambda downloads: key in downloads and downloads[key].state in states)
        return self.downloads.values[key]


@asynccontextmanager
async def registry_and_watch(yard: Yard) -> AsyncIterator[Queue]:
    async with Tasks() as tasks:
        bus, registry = await yard.bus(Role.SUPERVISOR), Registry()
        commands = await Commands.start(bus, tasks, "stand-in")
        await commands.add(subjects.MODEL_PUT, registry.put)
        downloads: BucketCache[Download] = await BucketCache.start(await yard.bus(), buckets.DOWNLOADS, tasks)
        yield Queue(yard, downloads, registry)


@asynccontextmanager
async def downloader(yard: Yard, settings: Settings | None = None) -> AsyncIterator[None]:
    """The service until the end of the block, which also kills its workers."""
    settings = settings or yard.settings
    (settings.run / "demo-registered").touch()
    settings.models.mkdir(parents=True, exist_ok=True)
    bus = await Bus.connect(settings, Role.DOWNLOADER, url=yard.url)
    async with Tasks() as tasks:
        await main(bus, settings, tasks)
        yield
    await bus.nc.close()
