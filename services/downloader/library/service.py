"""Putting the library together."""

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets
from services.downloader.library.commands import LibraryCommands
from services.downloader.library.job_commands import JobCommands
from services.downloader.library.library import Library
from services.downloader.peers.commands import PeerCommands


async def open_library(bus: Bus, settings: Settings, tasks: Tasks) -> Library:
    """Keep the stores of this node."""
    models = await BucketCache.start(bus, buckets.MODELS, tasks)
    instances = await BucketCache.start(bus, buckets.INSTANCES, tasks)
    spaces = await BucketCache.start(bus, buckets.STORES, tasks)
    downloads = await BucketCache.start(bus, buckets.DOWNLOADS, tasks)
    library = Library(bus, settings, models, instances, spaces, downloads)
    await library.start(tasks)
    return library


async def serve_library(
    bus: Bus, settings: Settings, tasks: Tasks, library: Library, commands: Commands
) -> None:
    """Answer the commands of the library, and give its files to other nodes."""
    jobs = await BucketCache.start(bus, buckets.JOBS, tasks)
    await LibraryCommands(bus, tasks, library, commands).start()
    await PeerCommands(bus, settings, tasks, library).start(commands)
    await JobCommands(bus, tasks, settings, library, commands, jobs).start()
