"""What other downloaders may ask of this one."""

import asyncio
from typing import TYPE_CHECKING

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.errors import NotFound
from schemas.peers import AskEntry, AskFile, AskRepo, EntryFiles, FileOffer, RepoFiles
from services.downloader.peers import address
from services.downloader.peers.grants import Grants
from services.downloader.peers.hashes import Hashes
from services.downloader.peers.holdings import Holdings

if TYPE_CHECKING:
    from services.downloader.peers.server import Server

_SETTLE_S = 2.0
"""What takes longer to read is asked for again."""


class PeerCommands:
    """Promises files, and says what there is."""

    def __init__(
        self, bus: Bus, settings: Settings, tasks: Tasks, holdings: Holdings, hashes: Hashes
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._holdings = holdings
        self._hashes = hashes
        self._tasks = tasks
        self._grants = Grants()
        self._server: Server | None = None

    async def start(self, commands: Commands) -> None:
        """Answer from now on."""
        await commands.add(subjects.PEER_OFFER, self.offer, node=self._bus.node)
        await commands.add(subjects.PEER_ENTRY, self.entry, node=self._bus.node)
        await commands.add(subjects.PEER_REPO, self.repo, node=self._bus.node)

    async def offer(self, asked: AskFile) -> FileOffer:
        """A token for a file that lies here whole; the listener starts with the first one."""
        given = self._holdings.having(asked.sha256, asked.size_bytes)
        if given is None:
            raise NotFound(f"{self._bus.node} has no such file.", param="sha256")
        host, port = await self._listen(asked)
        return FileOffer(
            url=address.url(host, port, asked.sha256),
            token=self._grants.issue(asked.sha256, given),
            expires_in_s=self._grants.ttl_s,
        )

    async def _listen(self, asked: AskFile) -> tuple[str, int]:
        own = await address.own_host(self._bus, self._settings)
        try:
            told = await asyncio.to_thread(address.told_host, own, asked.host)
            port = await self._listening().listen(own, self._settings.peer_port)
        except (OSError, ValueError) as error:
            raise NotFound(
                f"{self._bus.node} cannot give files on {own}: {error}; see YARD_PEER_HOST."
            ) from error
        if told is None:
            raise NotFound(f"{self._bus.node} gives files on its own machine only; see YARD_PEER_HOST.")
        return told, port

    def _listening(self) -> "Server":
        """Made when it is wanted: who never gives a file needs no HTTP server."""
        from services.downloader.peers.server import Server

        if self._server is None:
            self._server = Server(self._grants)
            self._tasks.before_cancel(self._server.stop)
        return self._server

    async def entry(self, asked: AskEntry) -> EntryFiles:
        """The files of an entry; asked again until every sha256 is known."""
        found = self._holdings.entry(asked.entry)
        if found.bytes_to_read:
            await self._hashes.settle(_SETTLE_S)
            found = self._holdings.entry(asked.entry)
        return found

    async def repo(self, asked: AskRepo) -> RepoFiles:
        """The files of a repository; asked again until every sha256 is known."""
        found = self._holdings.repo(asked)
        if found.bytes_to_read:
            await self._hashes.settle(_SETTLE_S)
            found = self._holdings.repo(asked)
        return found
