"""Asking other nodes for files, on behalf of the transfers of this one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.base import check_token
from schemas.errors import NotFound, ServiceUnavailable, YardError
from schemas.library import node_of
from schemas.peers import AskEntry, AskFile, AskRepo, EntryFiles, RepoFiles
from schemas.subject import Command
from services.downloader.peers.address import own_host
from services.downloader.selection import RemoteFile
from services.downloader.worker_messages import Distrust, Listing, Offer, Offers, Seek, SeekRepo

log = logs.get(__name__)
T = TypeVar("T")
R = TypeVar("R")
Answer = Callable[[Offers | Listing], Awaitable[None]]

TIMEOUT_S = 2.0
"""A node that hangs delays a file by this much."""
_LISTING_S = 30.0
_READS = 30
"""So often a listing is asked for that is still being read, each time for some seconds."""


class Finder:
    """Knows who else is there, and whom not to believe."""

    def __init__(self, bus: Bus, settings: Settings, nodes: Callable[[], Iterable[str]]) -> None:
        self._bus = bus
        self._settings = settings
        self._nodes = nodes
        self._distrusted: set[tuple[str, str]] = set()

    async def hear(self, message: Seek | SeekRepo | Distrust, answer: Answer) -> None:
        """What a worker asks or tells about other nodes; that nothing was found is an answer too."""
        match message:
            case Seek(sha256=sha256, size_bytes=size_bytes):
                await answer(Offers(sha256=sha256, offers=await self.offers(sha256, size_bytes)))
            case SeekRepo(repo=repo, revision=revision):
                await answer(await self.listing(AskRepo(repo=repo, revision=revision)))
            case Distrust():
                self._distrust(message)

    async def offers(self, sha256: str, size_bytes: int) -> tuple[Offer, ...]:
        """Every other node that has this file, with a token for it."""
        nodes = [node for node in self._others() if (node, sha256) not in self._distrusted]
        if not nodes:
            return ()
        host = await own_host(self._bus, self._settings)
        asked = AskFile(sha256=sha256, size_bytes=size_bytes, node=self._bus.node, host=host)
        answers = await self._ask_all(subjects.PEER_OFFER, asked, nodes, TIMEOUT_S)
        return tuple(Offer(node=node, url=found.url, token=found.token) for node, found in answers)

    async def listing(self, asked: AskRepo) -> Listing:
        """What the other nodes together have of a repository at one commit."""
        answers = await self._ask_all(subjects.PEER_REPO, asked, list(self._others()), _LISTING_S)
        newest = max((found for _, found in answers), key=lambda found: found.downloaded_at, default=None)
        if newest is None:
            return Listing()
        of_it = AskRepo(repo=asked.repo, revision=newest.commit)
        files: dict[str, RemoteFile] = {}
        for node, first in answers:
            complete = first.commit == newest.commit and not first.bytes_to_read
            for file in (first if complete else await self._complete(of_it, node)).files:
                files[file.path] = RemoteFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
        return Listing(commit=newest.commit, files=tuple(files[path] for path in sorted(files)))

    async def _complete(self, asked: AskRepo, node: str) -> RepoFiles:
        nothing = RepoFiles(commit=asked.revision or "", downloaded_at=0.0, files=())
        for _ in range(_READS):
            answers = await self._ask_all(subjects.PEER_REPO, asked, [node], _LISTING_S)
            found = answers[0][1] if answers else nothing
            if not found.bytes_to_read:
                return found
        return nothing

    async def entry(self, key: str) -> EntryFiles:
        """The files of an entry of another node; the sha256 of some may not be known yet."""
        node = node_of(key)
        try:
            return await self._bus.call(
                subjects.PEER_ENTRY, AskEntry(entry=key), timeout_s=_LISTING_S, node=check_token(node)
            )
        except ServiceUnavailable as error:
            raise ServiceUnavailable(f"Node {node} has no downloader running that could give it.") from error

    def _distrust(self, lie: Distrust) -> None:
        """These nodes gave wrong bytes of a file; they are not asked for it again."""
        log.warning("peers_gave_wrong_bytes", sha256=lie.sha256, nodes=lie.nodes)
        self._distrusted |= {(node, lie.sha256) for node in lie.nodes}

    def _others(self) -> list[str]:
        return [node for node in self._nodes() if node != self._bus.node]

    async def _ask_all(
        self, command: Command[T, R], asked: T, nodes: list[str], timeout_s: float
    ) -> list[tuple[str, R]]:
        asking = (self._ask(command, asked, node, timeout_s) for node in nodes)
        return [answer for answers in await asyncio.gather(*asking) for answer in answers]

    async def _ask(
        self, command: Command[T, R], asked: T, node: str, timeout_s: float
    ) -> list[tuple[str, R]]:
        """The node with its answer, if it has one."""
        try:
            return [(node, await self._bus.call(command, asked, timeout_s=timeout_s, node=node))]
        except NotFound:
            return []
        except YardError as error:
            log.info("peer_not_asked", node=node, error=error.message)
            return []
