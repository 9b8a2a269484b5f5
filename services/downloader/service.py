"""The downloader: from the hub to the disk to the registry."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.downloads import Download
from services.downloader.book import Book
from services.downloader.demo import ensure_demo
from services.downloader.downloads import Downloads
from services.downloader.library.service import start_library
from services.downloader.passing import Passing


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `Tasks` keeps the rest going."""
    known: Mirror[Download] = await Mirror.start(bus, buckets.DOWNLOADS, tasks)
    await ensure_demo(bus, settings)
    commands = await Commands.start(bus, tasks, "From the hub to the disk, and the library of what is there.")
    library = await start_library(bus, settings, tasks, commands)
    own = {key: each for key, each in known.values.items() if each.node == settings.node}
    downloads = Downloads(
        bus, tasks, settings, Book(bus, tasks, own), finder=library.finder, on_files=library.wake
    )
    await downloads.go_on()
    passing = Passing(bus, commands, settings.node, first=not settings.joined)
    await passing.add(subjects.DOWNLOAD_START, downloads.on_start)
    await passing.add(subjects.DOWNLOAD_ADD, downloads.on_add)
    await passing.add(subjects.DOWNLOAD_PAUSE, downloads.on_pause)
    await passing.add(subjects.DOWNLOAD_RESUME, downloads.on_resume)
    await passing.add(subjects.DOWNLOAD_CANCEL, downloads.on_cancel)
    await passing.add(subjects.DOWNLOAD_RETRY, downloads.on_retry)
    await passing.add(subjects.DOWNLOAD_MOVE, downloads.on_move)
    await passing.add(subjects.DOWNLOAD_LIMIT, downloads.on_limit)
    await passing.add(subjects.DOWNLOAD_FORGET, downloads.on_forget)
