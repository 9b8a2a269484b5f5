"""The peers that have the file of a transfer: which one serves the next piece, and which are excluded."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import msgspec

from modelyard.bus import logs
from services.downloader.transfer.options import FileSource, PeerOffer, PeerTimeouts

log = logs.get(__name__)

MAX_FAILURES = 2
"""Failures in a row that exclude a peer."""


class PeerSource(msgspec.Struct, kw_only=True, eq=False):
    offer: PeerOffer
    connections: int = 0
    failures: int = 0
    slow: bool = False
    excluded: bool = False


class PeerTooSlow(Exception):
    """The throughput of a peer is below the minimum."""


class PeerTokenRefused(Exception):
    """The peer does not accept its token, which may have expired."""


@dataclass
class PeerSources:
    """The peers of one file; none without a way to find them or without a sha256 to verify their bytes."""

    _source: FileSource
    _find_peers: Callable[[FileSource], Awaitable[Sequence[PeerOffer]]] | None
    hub_failed: bool = False
    """The last request to the hub failed, so slow peers are better than none."""
    one_at_a_time: bool = False
    """Only one peer serves the file, so that a wrong hash can be attributed."""
    _peers: dict[str, PeerSource] = field(default_factory=dict)
    _blacklist: set[str] = field(default_factory=set)
    _refreshing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self) -> None:
        """Find the peers that have the file now; each one's failures are reset."""
        async with self._refreshing:
            await self._refresh()

    async def _refresh(self) -> None:
        if self._find_peers is None or self._source.sha256 is None:
            return
        offers = {offer.node: offer for offer in await self._find_peers(self._source)}
        for node, peer in self._peers.items():
            peer.excluded = node not in offers
        for node, offer in offers.items():
            if node in self._blacklist:
                continue
            peer = self._peers.setdefault(node, PeerSource(offer=offer))
            peer.offer, peer.failures = offer, 0

    def pick(self) -> PeerSource | None:
        """The least busy peer; None if the hub is preferred or no peer is left."""
        usable = [peer for peer in self._peers.values() if not peer.excluded]
        fast = [peer for peer in usable if not peer.slow]
        if not fast and self._source.url is not None and not self.hub_failed:
            return None
        if self.one_at_a_time:
            return min(usable, key=lambda peer: peer.offer.node, default=None)
        return min(fast or usable, key=lambda peer: peer.connections, default=None)

    async def renew_token(self, peer: PeerSource, refused: str) -> None:
        """Replace a refused token; that the new one is refused as well counts as a failure."""
        async with self._refreshing:
            if peer.offer.token != refused:
                return
            failures = peer.failures
            await self._refresh()
            peer.failures = failures
        self.report_failure(peer, "refuses its own token")

    def report_failure(self, peer: PeerSource, reason: str) -> None:
        """Count a failure; the peer is excluded after two in a row."""
        peer.failures += 1
        if peer.failures >= MAX_FAILURES and not peer.excluded:
            peer.excluded = True
            log.info("peer_excluded", node=peer.offer.node, reason=reason)

    @property
    def exhausted(self) -> bool:
        return all(peer.excluded for peer in self._peers.values())

    def blacklist(self, nodes: Sequence[str]) -> None:
        """Never use these nodes again: they sent wrong bytes."""
        self._blacklist.update(nodes)
        for node in nodes:
            self._peers.pop(node, None)


class ThroughputCheck:
    """Whether one connection to a peer is fast enough; our own pauses do not count."""

    def __init__(self, timeouts: PeerTimeouts) -> None:
        self._timeouts = timeouts
        self._bytes = 0
        self._waited_s = 0.0
        self._wait_started_at = monotonic()

    def start_wait(self) -> None:
        """The connection waits for bytes from now on."""
        self._wait_started_at = monotonic()

    def add(self, count_bytes: int) -> None:
        """Bytes have arrived; PeerTooSlow if the throughput is below the minimum."""
        self._waited_s += monotonic() - self._wait_started_at
        self._bytes += count_bytes
        measured = self._waited_s >= self._timeouts.measured_s
        if measured and self._bytes < self._timeouts.min_bytes_s * self._waited_s:
            raise PeerTooSlow
