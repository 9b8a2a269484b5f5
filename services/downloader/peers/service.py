"""Putting the giving side together."""

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from services.downloader.library.library import Library
from services.downloader.peers.commands import PeerCommands
from services.downloader.peers.hashes import Hashes
from services.downloader.peers.holdings import Holdings


async def start_peers(
    bus: Bus, settings: Settings, tasks: Tasks, commands: Commands, library: Library
) -> None:
    """Give files to other nodes from now on."""
    hashes = Hashes(tasks)
    await PeerCommands(bus, settings, tasks, Holdings(library, hashes), hashes).start(commands)
