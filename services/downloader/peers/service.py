"""Putting the giving side together."""

from modelyard.bus import Bus
from modelyard.micro import Commands
from modelyard.settings import Settings
from modelyard.tasks import Tasks
from services.downloader.library.library import Library
from services.downloader.peers.commands import PeerCommands
from services.downloader.peers.grants import Grants
from services.downloader.peers.hashes import Hashes
from services.downloader.peers.holdings import Holdings
from services.downloader.peers.server import Server


async def start_peers(
    bus: Bus, settings: Settings, tasks: Tasks, commands: Commands, library: Library
) -> None:
    """Give files to other nodes from now on."""
    grants, hashes = Grants(), Hashes(tasks)
    server = Server(grants)
    tasks.before_cancel(server.stop)
    holdings = Holdings(library, hashes)
    await PeerCommands(bus, settings, holdings, hashes, grants, server).start(commands)
