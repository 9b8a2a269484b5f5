"""The downloader: from the hub to the disk to the registry."""

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.records import BucketCache
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.downloads import Download
from schemas.instances import Node
from schemas.models import ModelSpec
from services.downloader.book import Book
from services.downloader.demo import ensure_demo
from services.downloader.downloads import Downloads
from services.downloader.library.service import open_library, serve_library
from services.downloader.offering.offers import Offers
from services.downloader.order_commands import OrderCommands
from services.downloader.registering.registrar import Registrar


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `Tasks` keeps the rest going."""
    known: BucketCache[Download] = await BucketCache.start(bus, buckets.DOWNLOADS, tasks)
    await ensure_demo(bus, settings)
    library = await open_library(bus, settings, tasks)
    own = {key: each for key, each in known.values.items() if each.node == settings.node}
    nodes: BucketCache[Node] = await BucketCache.start(bus, buckets.NODES, tasks)
    models: BucketCache[ModelSpec] = await BucketCache.start(bus, buckets.MODELS, tasks)
    registrar = Registrar(bus, settings, nodes, models, known, library)
    book = Book(bus, tasks, own)
    downloads = Downloads(
        bus, tasks, settings, book, registrar=registrar, finder=library.finder, on_files=library.wake
    )
    await downloads.go_on()
    commands = Commands.open(bus, tasks, "From the hub to the disk, and the library of what is there.")
    await OrderCommands(bus, commands, downloads, first=not settings.joined).start()
    if not settings.joined:
        offers = Offers(settings, nodes, models)
        await commands.add(subjects.FILES_REGISTER, registrar.on_register)
        await commands.add(subjects.HUB_SEARCH, offers.on_search)
        await commands.add(subjects.HUB_OFFER, offers.on_offer)
    await serve_library(bus, settings, tasks, library, commands)
    await commands.announce()
