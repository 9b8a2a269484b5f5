"""Putting the library together."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets
from services.downloader.library.commands import LibraryCommands
from services.downloader.library.job_commands import JobCommands
from services.downloader.library.library import Library
from services.downloader.peers.service import start_peers


async def start_library(bus: Bus, settings: Settings, tasks: Tasks, commands: Commands) -> Library:
    """Keep the stores of this node, and answer the commands of the library."""
    models = await Mirror.start(bus, buckets.MODELS, tasks)
    instances = await Mirror.start(bus, buckets.INSTANCES, tasks)
    spaces = await Mirror.start(bus, buckets.STORES, tasks)
    jobs = await Mirror.start(bus, buckets.JOBS, tasks)
    downloads = await Mirror.start(bus, buckets.DOWNLOADS, tasks)
    library = Library(bus, settings, models, instances, spaces, downloads)
    await library.start(tasks)
    await LibraryCommands(bus, tasks, library, commands).start()
    await start_peers(bus, settings, tasks, commands, library)
    await JobCommands(bus, tasks, settings, library, commands, jobs).start()
    return library
