"""The commands by which other downloaders get files of this node."""

import asyncio

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.errors import NotFound
from schemas.peers import AskEntry, AskFile, AskRepo, EntryFiles, FileOffer, RepoFiles
from services.downloader.library.library import NodeLibrary
from services.downloader.peers import address
from services.downloader.peers.inventory import FileHashes, Inventory
from services.downloader.peers.server import FileServer, FileTokens

_HASH_WAIT_S = 2.0
"""A caller repeats the query while hashing takes longer."""


class PeerCommands:
    def __init__(self, bus: Bus, settings: Settings, tasks: Tasks, library: NodeLibrary) -> None:
        self._bus = bus
        self._settings = settings
        self._hashes = FileHashes(tasks)
        self._inventory = Inventory(library, self._hashes)
        self._tokens = FileTokens()
        self._server = FileServer(self._tokens)
        tasks.before_cancel(self._server.stop)

    async def start(self, commands: Commands) -> None:
        await commands.add(subjects.PEER_OFFER, self.on_offer, node=self._bus.node)
        await commands.add(subjects.PEER_ENTRY, self.on_entry, node=self._bus.node)
        await commands.add(subjects.PEER_REPO, self.on_repo, node=self._bus.node)

    async def on_offer(self, query: AskFile) -> FileOffer:
        """A token for a complete file of this node; the HTTP server starts with the first one."""
        file = self._inventory.by_hash(query.sha256, query.size_bytes)
        if file is None:
            raise NotFound(f"{self._bus.node} has no such file.", param="sha256")
        host, port = await self._listen(query)
        return FileOffer(
            url=address.file_url(host, port, query.sha256),
            token=self._tokens.issue(query.sha256, file),
            expires_in_s=self._tokens.ttl_s,
        )

    async def _listen(self, query: AskFile) -> tuple[str, int]:
        """The address of the server as the caller reaches it."""
        host = await address.listen_host(self._bus, self._settings)
        try:
            advertised = await asyncio.to_thread(address.advertised_host, host, query.host)
            port = await self._server.listen(host, self._settings.peer_port)
        except (OSError, ValueError) as error:
            raise NotFound(
                f"{self._bus.node} cannot give files on {host}: {error}; see YARD_PEER_HOST."
            ) from error
        if advertised is None:
            raise NotFound(f"{self._bus.node} gives files on its own machine only; see YARD_PEER_HOST.")
        return advertised, port

    async def on_entry(self, query: AskEntry) -> EntryFiles:
        """The files of an entry; callers repeat the query until every sha256 is known."""
        found = self._inventory.entry(query.entry)
        if found.bytes_to_read:
            await self._hashes.wait(_HASH_WAIT_S)
            found = self._inventory.entry(query.entry)
        return found

    async def on_repo(self, query: AskRepo) -> RepoFiles:
        """The files of a repository; callers repeat the query until every sha256 is known."""
        found = self._inventory.repo(query)
        if found.bytes_to_read:
            await self._hashes.wait(_HASH_WAIT_S)
            found = self._inventory.repo(query)
        return found
