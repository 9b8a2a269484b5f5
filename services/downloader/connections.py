"""The connections that fetch the pieces of one file: each takes the next piece, tries again, or gives up."""

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic

import aiohttp
from msgspec import Struct

from modelyard.bus.tasks import cancel
from services.downloader import ranges
from services.downloader.answers import (
    TryAgain,
    check_hop,
    check_part,
    check_status,
    check_whole,
    strong_etag,
)
from services.downloader.backoff import RetryPolicy
from services.downloader.errors import TransferError
from services.downloader.givers import Giver, Givers, Pace, TokenRefused, TooSlow, Watch
from services.downloader.part_file import PartFile
from services.downloader.ranges import Range
from services.downloader.redirects import get_bytes
from services.downloader.source import Source
from services.downloader.throttle import Throttle
from services.downloader.worker_messages import Offer

OnTrouble = Callable[[str], None]
"""Hears why nothing arrives, in a sentence."""
OnReceived = Callable[[str, int], None]
"""Hears from where so many bytes came: the hub, or a node by its name."""
HUB = "hub"


class Manner(Struct, frozen=True, kw_only=True):
    """How the pieces of a file are fetched."""

    policy: RetryPolicy
    throttle: Throttle
    on_trouble: OnTrouble
    on_write: Callable[[], None]
    """Called after every write."""
    on_received: OnReceived
    pace: Pace = Pace()
    in_pieces: bool = True
    """Without it every attempt asks for the whole file, since the server has no ranges."""
    one_etag: bool = True
    """Whether another ETag means another file."""


class NoRanges(Exception):
    """The server sends whole files only."""


class Changed(Exception):
    """What the server sends now does not belong to what it sent before."""


class Connections:
    """Brings the given pieces of a source into a part; NoRanges and Changed are for the caller."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        source: Source,
        part: PartFile,
        manner: Manner,
        givers: Givers,
        todo: list[Range],
    ) -> None:
        self._session = session
        self._source = source
        self._part = part
        self._manner = manner
        self._givers = givers
        self._todo = sorted(todo)
        self._quiet_until = 0.0
        """The server wants to be left alone until then, by all connections."""

    async def run(self, count: int) -> None:
        """Fetch everything over so many connections."""
        tasks = [asyncio.create_task(self._connection()) for _ in range(max(1, min(count, len(self._todo))))]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel(*tasks)

    async def _connection(self) -> None:
        idle_attempts, seen_bytes, seen_at = 0, self._part.done_bytes, monotonic()
        while self._todo:
            piece = self._todo.pop(0)
            if (giver := self._givers.pick()) is not None:
                if not await self._ask(giver, piece):
                    self._give_back(piece)
                continue
            failure = await self._attempt_safely(piece)
            self._givers.hub_fails = failure is not None
            if failure is None:
                continue
            self._give_back(piece)
            idle_attempts += 1
            if self._part.done_bytes > seen_bytes:
                idle_attempts, seen_bytes, seen_at = 0, self._part.done_bytes, monotonic()
            unreachable = isinstance(failure, aiohttp.ClientConnectorError)
            if self._manner.policy.gives_up(idle_attempts, monotonic() - seen_at, unreachable=unreachable):
                raise self._gave_up(failure, idle_attempts)
            await self._pause(failure, idle_attempts)
            await self._givers.look()

    def _give_back(self, piece: Range) -> None:
        """The lowest bytes come first: the hash follows them."""
        if self._source.sha256 is None and not (self._part.etags and self._manner.in_pieces):
            self._part.restart()  # nothing would prove that the next answer goes on where this one ended
        self._todo += ranges.gaps(self._part.ranges, *piece) if self._manner.in_pieces else [piece]
        self._todo.sort()

    async def _pause(self, failure: Exception, idle_attempts: int) -> None:
        retry_after_s = failure.retry_after_s if isinstance(failure, TryAgain) else None
        pause_s = self._manner.policy.pause_s(idle_attempts, retry_after_s)
        if retry_after_s is not None:
            self._quiet_until = max(self._quiet_until, monotonic() + pause_s)
        if idle_attempts or retry_after_s is not None:
            what = f"{self._who} {failure}" if isinstance(failure, TryAgain) else "The connection failed"
            self._manner.on_trouble(f"{what}; trying again in {pause_s:.0f} s.")
        await asyncio.sleep(pause_s)

    async def _attempt_safely(self, piece: Range) -> Exception | None:
        while (wait_s := self._quiet_until - monotonic()) > 0:
            await asyncio.sleep(wait_s)
        if self._source.url is None:
            return TryAgain("gives the file now")
        try:
            await self._attempt(piece, self._source.url)
        except (TryAgain, aiohttp.ClientError, TimeoutError, OSError) as error:
            return error
        return None

    async def _ask(self, giver: Giver, piece: Range) -> bool:
        """Have a node bring a piece; whether it did. What it did not bring is asked for elsewhere at once."""
        offer = giver.offer
        giver.busy += 1
        try:
            await self._ask_node(offer, piece, self._watch(giver))
        except TokenRefused:
            await self._givers.renew(giver, offer.token)
        except TooSlow:
            giver.slow = True
        except (TryAgain, aiohttp.ClientError, TimeoutError, OSError) as error:
            self._givers.strike(giver, str(error) or type(error).__name__)
        else:
            giver.strikes = 0
            return True
        finally:
            giver.busy -= 1
        return False

    def _watch(self, giver: Giver) -> Watch | None:
        """None for the last resort: it may take its time."""
        return None if giver.slow or self._source.url is None else Watch(self._manner.pace)

    async def _ask_node(self, offer: Offer, piece: Range, watch: Watch | None) -> None:
        headers = {
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {offer.token}",
            "Range": f"bytes={piece[0]}-{piece[1] - 1}",
        }
        pace = self._manner.pace
        patience = aiohttp.ClientTimeout(total=None, sock_connect=pace.connect_s, sock_read=pace.silence_s)
        # No redirect is followed and no proxy asked: the token is for this one place.
        asking = self._session.get(offer.url, headers=headers, allow_redirects=False, timeout=patience)
        async with asking as response:
            if response.status == 401:
                raise TokenRefused
            if response.status != 206:
                raise TryAgain(f"answered {response.status}")
            check_part(response, piece, self._source.size_bytes)
            self._part.know_giver(offer.node)
            await self._read(response, piece, offer.node, watch)

    async def _attempt(self, piece: Range, url: str) -> None:
        source, whole = self._source, piece == (0, self._source.size_bytes)
        headers = {"Accept-Encoding": "identity"}
        if not whole:
            headers["Range"] = f"bytes={piece[0]}-{piece[1] - 1}"
        if not whole and source.sha256 is None:
            headers["If-Range"] = next(iter(self._part.etags.values()), '""')

        on_hop = partial(check_hop, source=source)
        async with get_bytes(self._session, url, headers, source.authorization, on_hop) as response:
            check_status(response, url)
            self._check_answer(response, piece, whole=whole)
            await self._read(response, piece, HUB)

    def _check_answer(self, response: aiohttp.ClientResponse, piece: Range, *, whole: bool) -> None:
        size_bytes = self._source.size_bytes
        if not whole and response.status == 200:
            raise NoRanges if self._source.sha256 else Changed
        if whole:
            check_whole(response, size_bytes)
        else:
            check_part(response, piece, size_bytes)
        self._check_etag(response)

    def _check_etag(self, response: aiohttp.ClientResponse) -> None:
        host, etag = response.url.host or "", strong_etag(response)
        known = self._part.etags.get(host)
        if etag is None or etag == known or not self._manner.one_etag:
            return
        if known is not None:
            raise Changed
        self._part.know_etag(host, etag)

    async def _read(
        self, response: aiohttp.ClientResponse, piece: Range, source: str, watch: Watch | None = None
    ) -> None:
        """Up to the end of the piece, whatever else the server would send."""
        at, end = piece
        async for chunk in response.content.iter_any():
            self._manner.on_received(source, len(chunk))
            if watch is not None:
                watch.got(len(chunk))
            if at + len(chunk) > end and self._source.sha256 is None:
                raise TryAgain("sends more bytes than it lists")
            self._part.write(at, chunk[: end - at])
            at += len(chunk)
            self._manner.on_write()
            await self._manner.throttle.take(len(chunk))
            if at >= end:
                return
            if watch is not None:
                watch.wait()
        raise TryAgain("stopped in the middle of the file")

    @property
    def _who(self) -> str:
        return "The hub" if self._source.url is not None else "No other node"

    def _gave_up(self, failure: Exception, attempts: int) -> TransferError:
        if self._source.url is None:
            sentence = (
                f"No other node gives {self._part.path.stem} now; what has arrived is kept. Try again later."
            )
            return TransferError("no_giver", sentence)
        if isinstance(failure, TryAgain):
            return TransferError(
                "hub_error", f"The hub {failure} {attempts} times in a row; try again later."
            )
        sentence = (
            f"The connection failed {attempts} times in a row; what has arrived is kept. Try again later."
        )
        return TransferError("hub_unreachable", sentence)
