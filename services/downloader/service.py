"""The downloader service: downloads from the hub and from peers, the library of the stores, registration."""

import asyncio
import sys
from pathlib import Path

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.errors import Conflict
from schemas.models import ModelSpec
from services.downloader.commands import DownloadCommands
from services.downloader.library.commands import LibraryCommands
from services.downloader.library.job_commands import JobCommands
from services.downloader.library.library import NodeLibrary
from services.downloader.offers.offers import HubCommands
from services.downloader.peers.server import PeerCommands
from services.downloader.queue import RunQueue
from services.downloader.records import DownloadRecords
from services.downloader.register.registrar import Registrar, register_model

log = logs.get(__name__)

_DEMO_NAME = "demo"
_DEMO_PATH = "modelyard/demo.gguf"
_DEMO_DONE = "demo-registered"


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Assemble the service, resume its downloads and jobs, and subscribe to its commands."""
    await ensure_demo(bus, settings)
    library = await open_library(bus, settings, tasks)
    nodes = await BucketCache.start(bus, buckets.NODES, tasks)
    downloads = library.downloads.values.items()
    own = {key: download for key, download in downloads if download.node == settings.node}
    records = DownloadRecords(bus, tasks, own)
    registrar = Registrar(bus, settings, nodes, library)
    queue = RunQueue(tasks, settings, records, registrar, library)
    await queue.resume()
    commands = Commands.open(bus, tasks, "From the hub to the disk, and the library of what is there.")
    await DownloadCommands(bus, settings, records, queue, registrar).start(commands)
    if not settings.joined:
        offers = HubCommands(settings, nodes, library.models)
        await commands.add(subjects.FILES_REGISTER, registrar.on_register)
        await commands.add(subjects.HUB_SEARCH, offers.on_search)
        await commands.add(subjects.HUB_OFFER, offers.on_offer)
    await serve_library(bus, settings, tasks, library, commands)
    await commands.announce()


async def open_library(bus: Bus, settings: Settings, tasks: Tasks) -> NodeLibrary:
    """Start the stores of this node."""
    models = await BucketCache.start(bus, buckets.MODELS, tasks)
    instances = await BucketCache.start(bus, buckets.INSTANCES, tasks)
    spaces = await BucketCache.start(bus, buckets.STORES, tasks)
    downloads = await BucketCache.start(bus, buckets.DOWNLOADS, tasks)
    library = NodeLibrary(bus, settings, models, instances, spaces, downloads)
    await library.start(tasks)
    return library


async def serve_library(
    bus: Bus, settings: Settings, tasks: Tasks, library: NodeLibrary, commands: Commands
) -> None:
    """Serve the commands of the library, and its files to other nodes."""
    jobs = await BucketCache.start(bus, buckets.JOBS, tasks)
    await LibraryCommands(bus, tasks, library, commands).start()
    await PeerCommands(bus, settings, tasks, library).start(commands)
    await JobCommands(bus, tasks, settings, library, jobs).start(commands)


async def ensure_demo(bus: Bus, settings: Settings) -> None:
    """Write and register the demo model once a home, so that a new yard answers without a download.

    A demo model that was deleted is not created again.
    """
    done = settings.run / _DEMO_DONE
    if done.exists():
        return
    path = settings.models / _DEMO_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    await _write_demo(path)
    if not settings.joined:  # the first node registers it for all
        try:
            await register_model(bus, ModelSpec(name=_DEMO_NAME, path=_DEMO_PATH, n_ctx=8192))
        except Conflict as error:
            log.info("demo_not_registered", reason=error.message)
    done.touch()


async def _write_demo(path: Path) -> None:
    """In a child process, since the writer's memory is needed only once."""
    argv = (sys.executable, "-m", "modelyard.files.tinymodels", "reciter", str(path))
    process = await asyncio.create_subprocess_exec(*argv)
    if await process.wait() != 0:
        raise OSError(f"the demo model could not be written to {path}")
