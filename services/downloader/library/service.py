"""Starts the library and its commands."""

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets
from services.downloader.library.commands import LibraryCommands
from services.downloader.library.job_commands import JobCommands
from services.downloader.library.library import NodeLibrary
from services.downloader.peers.commands import PeerCommands


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
    await JobCommands(bus, tasks, settings, library, commands, jobs).start()
