"""Queries to the other nodes' downloaders for files, and the address on which this node serves its own."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.errors import NotFound, ServiceUnavailable, YardError
from schemas.library import node_of
from schemas.peers import EntryFiles, ListEntryFiles, ListRepoFiles, RepoFiles, RequestFile
from schemas.subject import Command
from services.downloader.selection.files import RemoteFile
from services.downloader.transfer.options import PeerOffer
from services.downloader.worker import messages

log = logs.get(__name__)
T = TypeVar("T")
R = TypeVar("R")

OFFER_TIMEOUT_S = 2.0
"""The delay that an unresponsive node causes for each file."""
_LISTING_TIMEOUT_S = 30.0
_MAX_LISTINGS = 30
"""Queries for a listing whose files are still being hashed; each takes some seconds."""
LOOPBACK = "127.0.0.1"


class PeerClient:
    """Finds files on other nodes, but not on nodes that have sent wrong bytes of them."""

    def __init__(self, bus: Bus, settings: Settings, nodes: Callable[[], Iterable[str]]) -> None:
        self._bus = bus
        self._settings = settings
        self._nodes = nodes
        self._blacklist: set[tuple[str, str]] = set()
        """Node and sha256."""

    async def handle(
        self, message: messages.PeerMessage, reply: Callable[[messages.PeerReply], Awaitable[None]]
    ) -> None:
        """Answer a worker's query, also an empty one, or record its report."""
        match message:
            case messages.FindFilePeers(sha256=sha256, size_bytes=size_bytes):
                await reply(messages.FilePeers(sha256=sha256, offers=await self.offers(sha256, size_bytes)))
            case messages.FindPeerRepo(repo=repo, revision=revision):
                await reply(await self.repo(ListRepoFiles(repo=repo, revision=revision)))
            case messages.BlacklistPeer(sha256=sha256, nodes=nodes):
                log.warning("peer_blacklisted", sha256=sha256, nodes=nodes)
                self._blacklist |= {(node, sha256) for node in nodes}

    async def offers(self, sha256: str, size_bytes: int) -> tuple[PeerOffer, ...]:
        """Every other node that has this file, with a token for it."""
        nodes = [node for node in self._others() if (node, sha256) not in self._blacklist]
        if not nodes:
            return ()
        host = await listen_host(self._bus, self._settings)
        query = RequestFile(sha256=sha256, size_bytes=size_bytes, node=self._bus.node, host=host)
        replies = await self._query_all(subjects.PEER_OFFER, query, nodes, OFFER_TIMEOUT_S)
        return tuple(PeerOffer(node=node, url=offer.url, token=offer.token) for node, offer in replies)

    async def repo(self, query: ListRepoFiles) -> messages.PeerRepo:
        """The files of a repository that the other nodes together have, at the newest commit among them."""
        replies = await self._query_all(subjects.PEER_REPO, query, list(self._others()), _LISTING_TIMEOUT_S)
        newest = max((repo for _, repo in replies), key=lambda repo: repo.downloaded_at, default=None)
        if newest is None:
            return messages.PeerRepo()
        at_commit = ListRepoFiles(repo=query.repo, revision=newest.commit)
        files: dict[str, RemoteFile] = {}
        for node, repo in replies:
            complete = repo.commit == newest.commit and not repo.bytes_to_read
            for file in (repo if complete else await self._complete_repo(at_commit, node)).files:
                files[file.path] = RemoteFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
        return messages.PeerRepo(commit=newest.commit, files=tuple(files[path] for path in sorted(files)))

    async def _complete_repo(self, query: ListRepoFiles, node: str) -> RepoFiles:
        """A node's listing once all its files are hashed; an empty one after too many queries."""
        nothing = RepoFiles(commit=query.revision or "", downloaded_at=0.0, files=())
        for _ in range(_MAX_LISTINGS):
            replies = await self._query_all(subjects.PEER_REPO, query, [node], _LISTING_TIMEOUT_S)
            repo = replies[0][1] if replies else nothing
            if not repo.bytes_to_read:
                return repo
        return nothing

    async def entry(self, key: str) -> EntryFiles:
        """The files of an entry on another node; the sha256 of some may be missing yet."""
        node = node_of(key)
        try:
            query = ListEntryFiles(entry=key)
            return await self._bus.call(subjects.PEER_ENTRY, query, timeout_s=_LISTING_TIMEOUT_S, node=node)
        except ServiceUnavailable as error:
            raise ServiceUnavailable(f"Node {node} has no downloader running that could send it.") from error

    def _others(self) -> list[str]:
        return [node for node in self._nodes() if node != self._bus.node]

    async def _query_all(
        self, command: Command[T, R], query: T, nodes: list[str], timeout_s: float
    ) -> list[tuple[str, R]]:
        queries = (self._query(command, query, node, timeout_s) for node in nodes)
        return [reply for replies in await asyncio.gather(*queries) for reply in replies]

    async def _query(
        self, command: Command[T, R], query: T, node: str, timeout_s: float
    ) -> list[tuple[str, R]]:
        """The node with its reply, or nothing."""
        try:
            return [(node, await self._bus.call(command, query, timeout_s=timeout_s, node=node))]
        except NotFound:
            return []
        except YardError as error:
            log.info("peer_query_failed", node=node, error=error.message)
            return []


async def listen_host(bus: Bus, settings: Settings) -> str:
    """The address to listen on, determined from the current connection."""
    broker = bus.nc.connected_url
    return await asyncio.to_thread(select_host, settings, broker.hostname if broker else None)


def select_host(settings: Settings, broker: str | None) -> str:
    """The configured host, else the own broker's, else the local address of the route to the broker.

    Blocks while a name is resolved.
    """
    if settings.peer_host is not None:
        return settings.peer_host
    if not settings.joined and not is_loopback(settings.nats_host):
        return settings.nats_host
    return route_address(broker or LOOPBACK)


def advertised_host(listening: str, client: str) -> str | None:
    """The address under which `client` reaches a listener on `listening`; None if it cannot."""
    if is_loopback(listening):
        return listening if is_loopback(client) or is_wildcard(client) else None
    return route_address(client) if is_wildcard(listening) else listening


def route_address(host: str) -> str:
    """The local address of the route to a host; loopback if there is no route."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as udp:
            udp.connect(target)  # sends nothing: the system only chooses a route
            return str(udp.getsockname()[0])
    except (OSError, UnicodeError):
        return LOOPBACK


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on this address."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def is_wildcard(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def file_url(host: str, port: int, sha256: str) -> str:
    return f"http://[{host}]:{port}/files/{sha256}" if ":" in host else f"http://{host}:{port}/files/{sha256}"
