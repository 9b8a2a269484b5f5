"""Other nodes that have the file which is being fetched: who is asked for the next piece, and who no more."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

import msgspec

from modelyard.bus import logs
from services.downloader.source import Source
from services.downloader.worker_messages import Offer

log = logs.get(__name__)

Seeking = Callable[[Source], Awaitable[Sequence[Offer]]]
"""Asks which nodes have a file."""

MAX_STRIKES = 2
"""So often in a row a node may fail before it is left out."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of a node. They are near, and there is the hub: nobody is waited for as for that."""

    connect_s: float = 3.0
    silence_s: float = 10.0
    least_bytes_s: float = 256 * 1024
    """Over one connection; where there is less for `waited_s`, the hub is tried first."""
    waited_s: float = 5.0


class Giver(msgspec.Struct, kw_only=True, eq=False):
    """One node."""

    offer: Offer
    busy: int = 0
    strikes: int = 0
    slow: bool = False
    out: bool = False

    @property
    def node(self) -> str:
        return self.offer.node


class TooSlow(Exception):
    """It brings so little that others are tried."""


class TokenRefused(Exception):
    """It wants another token."""


class Givers:
    """Who may be asked for one file. Without anybody to ask, or a sha256 to check it by, there are none."""

    def __init__(self, source: Source, seek: Seeking | None) -> None:
        self.hub_fails = False
        """The hub was asked in vain, so slow nodes are better than nothing."""
        self.alone = False
        """One node at a time, so that it is known who gave what."""
        self._source = source
        self._seek = seek if source.sha256 is not None else None
        self._known: dict[str, Giver] = {}
        self._distrusted: set[str] = set()
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        """Ask who has the file now; everybody who says so gets another chance."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        if self._seek is None:
            return
        offers = {offer.node: offer for offer in await self._seek(self._source)}
        for node, giver in self._known.items():
            giver.out = node not in offers
        for node, offer in offers.items():
            if node in self._distrusted:
                continue
            giver = self._known.setdefault(node, Giver(offer=offer))
            giver.offer, giver.strikes = offer, 0

    def pick(self) -> Giver | None:
        """The least busy node; None if the hub is to be asked, or nobody is left."""
        living = [giver for giver in self._known.values() if not giver.out]
        quick = [giver for giver in living if not giver.slow]
        if not quick and self._source.url is not None and not self.hub_fails:
            return None
        if self.alone:
            return min(living, key=lambda giver: giver.node, default=None)
        return min(quick or living, key=lambda giver: giver.busy, default=None)

    async def renew(self, giver: Giver, refused: str) -> None:
        """Another token in place of the refused one; one that brings nothing either is a strike."""
        async with self._looking:
            if giver.offer.token != refused:
                return
            strikes = giver.strikes
            await self._look()
            giver.strikes = strikes
        self.strike(giver, "refuses its own token")

    def strike(self, giver: Giver, reason: str) -> None:
        """It failed."""
        giver.strikes += 1
        if giver.strikes >= MAX_STRIKES and not giver.out:
            giver.out = True
            log.info("node_left_out", node=giver.node, reason=reason)

    @property
    def nobody(self) -> bool:
        """Whether no node is known to have the file."""
        return all(giver.out for giver in self._known.values())

    def distrust(self, nodes: Sequence[str]) -> None:
        """These gave wrong bytes."""
        self._distrusted.update(nodes)
        for node in nodes:
            self._known.pop(node, None)


class Watch:
    """Whether what one connection brings is worth waiting for; our own pauses do not count."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._bytes = 0
        self._waited_s = 0.0
        self._began = monotonic()

    def wait(self) -> None:
        """From now on we wait for bytes."""
        self._began = monotonic()

    def got(self, count_bytes: int) -> None:
        """So many have come; TooSlow if that is too little."""
        self._waited_s += monotonic() - self._began
        self._bytes += count_bytes
        late = self._waited_s >= self._pace.waited_s
        if late and self._bytes < self._pace.least_bytes_s * self._waited_s:
            raise TooSlow
