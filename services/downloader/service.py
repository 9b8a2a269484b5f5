"""The downloader: from the hub to the disk to the registry."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets
from schemas.downloads import Download
from services.downloader.book import Book
from services.downloader.demo import ensure_demo
from services.downloader.downloads import Downloads
from services.downloader.library.service import start_library
from services.downloader.order_commands import OrderCommands


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `Tasks` keeps the rest going."""
    known: Mirror[Download] = await Mirror.start(bus, buckets.DOWNLOADS, tasks)
    await ensure_demo(bus, settings)
    commands = await Commands.start(bus, tasks, "From the hub to the disk, and the library of what is there.")
    library = await start_library(bus, settings, tasks, commands)
    own = {key: each for key, each in known.values.items() if each.node == settings.node}
    book = Book(bus, tasks, own)
    downloads = Downloads(bus, tasks, settings, book, finder=library.finder, on_files=library.wake)
    await downloads.go_on()
    await OrderCommands(bus, commands, downloads, first=not settings.joined).start()
