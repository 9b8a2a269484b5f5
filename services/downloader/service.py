"""The downloader: from the hub to the disk to the registry."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.downloads import Download
from services.downloader.demo import ensure_demo
from services.downloader.downloads import Downloads
from services.downloader.library.service import start_library


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `Tasks` keeps the rest going."""
    known: Mirror[Download] = await Mirror.start(bus, buckets.DOWNLOADS, tasks)
    await ensure_demo(bus, settings)
    commands = await Commands.start(bus, tasks, "From the hub to the disk, and the library of what is there.")
    library = await start_library(bus, settings, tasks, commands)
    if settings.joined:
        # Pulls are the first machine's: two downloaders would both resume what one has begun.
        return
    downloads = Downloads(bus, tasks, settings, known, library.wake)
    downloads.resume()
    await commands.add(subjects.DOWNLOAD_START, downloads.on_start)
    await commands.add(subjects.DOWNLOAD_CANCEL, downloads.on_cancel)
