"""The downloader: from the hub to the disk to the registry."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.state import Mirror
from modelyard.tasks import Tasks
from schemas import buckets, subjects
from schemas.downloads import Download
from schemas.instances import Node
from schemas.models import ModelSpec
from services.downloader.demo import ensure_demo
from services.downloader.downloads import Downloads
from services.downloader.library.service import start_library
from services.downloader.offering.offers import Offers
from services.downloader.registering.registrar import Registrar


async def main(bus: Bus, settings: Settings, tasks: Tasks) -> None:
    """Set up and subscribe; `Tasks` keeps the rest going."""
    known: Mirror[Download] = await Mirror.start(bus, buckets.DOWNLOADS, tasks)
    await ensure_demo(bus, settings)
    commands = await Commands.start(bus, tasks, "From the hub to the disk, and the library of what is there.")
    library = await start_library(bus, settings, tasks, commands)
    if settings.joined:
        # Pulls are the first machine's: two downloaders would both resume what one has begun.
        return
    nodes: Mirror[Node] = await Mirror.start(bus, buckets.NODES, tasks)
    models: Mirror[ModelSpec] = await Mirror.start(bus, buckets.MODELS, tasks)
    registrar = Registrar(bus, settings, nodes, models, known, library)
    offers = Offers(settings, nodes, models)
    downloads = Downloads(bus, tasks, settings, known, registrar, library.wake)
    downloads.resume()
    await commands.add(subjects.DOWNLOAD_START, downloads.on_start)
    await commands.add(subjects.DOWNLOAD_CANCEL, downloads.on_cancel)
    await commands.add(subjects.FILES_REGISTER, registrar.on_register)
    await commands.add(subjects.HUB_SEARCH, offers.on_search)
    await commands.add(subjects.HUB_OFFER, offers.on_offer)
