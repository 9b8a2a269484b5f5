"""The connections that fetch the pieces of one file: each takes the next piece, retries it, or gives up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic

import aiohttp
from msgspec import Struct

from modelyard.bus.tasks import cancel
from services.downloader.errors import TransferError
from services.downloader.transfer import http, ranges
from services.downloader.transfer.options import FileSource, PeerOffer, TransferOptions
from services.downloader.transfer.part_file import PartFile
from services.downloader.transfer.peer_sources import (
    PeerSource,
    PeerSources,
    PeerTokenRefused,
    PeerTooSlow,
    ThroughputCheck,
)
from services.downloader.transfer.ranges import Range

HUB = "hub"
"""The name of the hub as a source of bytes."""
_REQUEST_ERRORS = (http.RetryableError, aiohttp.ClientError, TimeoutError, OSError)


class ConnectionOptions(Struct, frozen=True, kw_only=True):
    """How the pieces of a file are requested."""

    on_write: Callable[[], None]
    """Called after every write."""
    use_ranges: bool = True
    """Without it every request is for the whole file, since the server does not support ranges."""
    single_etag: bool = True
    """Whether another ETag means another file."""


class RangesUnsupported(Exception):
    """The server sends whole files only."""


class FileChanged(Exception):
    """What the server sends now does not belong to what it sent before."""


@dataclass
class Connections:
    """Fetches pieces of a source into a part; RangesUnsupported and FileChanged are for the caller."""

    _session: aiohttp.ClientSession
    _source: FileSource
    _part: PartFile
    _transfer: TransferOptions
    _options: ConnectionOptions
    _peers: PeerSources
    _pieces: list[Range]
    """In order."""
    _paused_until: float = 0.0
    """A Retry-After of the server, which all connections obey."""

    async def run(self, count: int) -> None:
        """Fetch all pieces over so many connections."""
        count = max(1, min(count, len(self._pieces)))
        tasks = [asyncio.create_task(self._connection()) for _ in range(count)]
        try:
            await asyncio.gather(*tasks)
        finally:
            await cancel(*tasks)

    async def _connection(self) -> None:
        idle_attempts, seen_bytes, seen_at = 0, self._part.done_bytes, monotonic()
        while self._pieces:
            piece = self._pieces.pop(0)
            if (peer := self._peers.pick()) is not None:
                if not await self._fetch_from_peer(peer, piece):
                    self._return_piece(piece)
                continue
            failure = await self._fetch_from_hub(piece)
            self._peers.hub_failed = failure is not None
            if failure is None:
                continue
            self._return_piece(piece)
            idle_attempts += 1
            if self._part.done_bytes > seen_bytes:
                idle_attempts, seen_bytes, seen_at = 0, self._part.done_bytes, monotonic()
            unreachable = isinstance(failure, aiohttp.ClientConnectorError)
            policy = self._transfer.retry_policy
            if policy.is_exhausted(idle_attempts, monotonic() - seen_at, unreachable=unreachable):
                raise self._final_error(failure, idle_attempts)
            await self._pause(failure, idle_attempts)
            await self._peers.refresh()

    def _return_piece(self, piece: Range) -> None:
        """Put back what is missing of a piece. The lowest bytes are fetched first: the hash follows them."""
        use_ranges = self._options.use_ranges
        if self._source.sha256 is None and not (self._part.etags and use_ranges):
            self._part.restart()  # nothing would prove that the next response continues this one
        self._pieces += ranges.gaps(self._part.ranges, *piece) if use_ranges else [piece]
        self._pieces.sort()

    async def _pause(self, failure: Exception, idle_attempts: int) -> None:
        retry_after_s = failure.retry_after_s if isinstance(failure, http.RetryableError) else None
        pause_s = self._transfer.retry_policy.pause_s(idle_attempts, retry_after_s)
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, monotonic() + pause_s)
        if idle_attempts or retry_after_s is not None:
            problem = "The connection failed"
            if isinstance(failure, http.RetryableError):
                problem = f"{'The hub' if self._source.url is not None else 'No other node'} {failure}"
            self._transfer.on_problem(f"{problem}; trying again in {pause_s:.0f} s.")
        await asyncio.sleep(pause_s)

    async def _fetch_from_hub(self, piece: Range) -> Exception | None:
        """Fetch a piece; the error if the attempt failed and may be retried."""
        while (wait_s := self._paused_until - monotonic()) > 0:
            await asyncio.sleep(wait_s)
        if self._source.url is None:
            return http.RetryableError("sends the file now")
        try:
            await self._request_from_hub(piece, self._source.url)
        except _REQUEST_ERRORS as error:
            return error
        return None

    async def _request_from_hub(self, piece: Range, url: str) -> None:
        source, whole = self._source, piece == (0, self._source.size_bytes)
        headers = {"Accept-Encoding": "identity"}
        if not whole:
            headers["Range"] = f"bytes={piece[0]}-{piece[1] - 1}"
        if not whole and source.sha256 is None:
            headers["If-Range"] = next(iter(self._part.etags.values()), '""')

        on_headers = partial(http.check_file_identity, source=source)
        async with http.get_bytes(self._session, url, headers, source.authorization, on_headers) as response:
            http.check_status(response, url)
            self._check_response(response, piece, whole=whole)
            await self._receive(response, piece, HUB)

    def _check_response(self, response: aiohttp.ClientResponse, piece: Range, *, whole: bool) -> None:
        size_bytes = self._source.size_bytes
        if not whole and response.status == 200:
            raise RangesUnsupported if self._source.sha256 else FileChanged
        if whole:
            http.check_full_response(response, size_bytes)
        else:
            http.check_content_range(response, piece, size_bytes)
        self._check_etag(response)

    def _check_etag(self, response: aiohttp.ClientResponse) -> None:
        host, etag = response.url.host or "", http.strong_etag(response)
        earlier = self._part.etags.get(host)
        if etag is None or etag == earlier or not self._options.single_etag:
            return
        if earlier is not None:
            raise FileChanged
        self._part.add_etag(host, etag)

    async def _fetch_from_peer(self, peer: PeerSource, piece: Range) -> bool:
        """Fetch a piece; False if another source has to serve what is missing of it, without a pause."""
        offer = peer.offer
        peer.connections += 1
        # A peer without an alternative may be as slow as it is.
        is_last_resort = peer.slow or self._source.url is None
        check = None if is_last_resort else ThroughputCheck(self._transfer.peer_timeouts)
        try:
            await self._request_from_peer(offer, piece, check)
        except PeerTokenRefused:
            await self._peers.renew_token(peer, offer.token)
        except PeerTooSlow:
            peer.slow = True
        except _REQUEST_ERRORS as error:
            self._peers.report_failure(peer, str(error) or type(error).__name__)
        else:
            peer.failures = 0
            return True
        finally:
            peer.connections -= 1
        return False

    async def _request_from_peer(self, offer: PeerOffer, piece: Range, check: ThroughputCheck | None) -> None:
        headers = {
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {offer.token}",
            "Range": f"bytes={piece[0]}-{piece[1] - 1}",
        }
        limits = self._transfer.peer_timeouts
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s)
        # No redirects and no proxy: the token is valid for this address only.
        request = self._session.get(offer.url, headers=headers, allow_redirects=False, timeout=timeout)
        async with request as response:
            if response.status == 401:
                raise PeerTokenRefused
            if response.status != 206:
                raise http.RetryableError(f"answered {response.status}")
            http.check_content_range(response, piece, self._source.size_bytes)
            self._part.add_peer(offer.node)
            await self._receive(response, piece, offer.node, check)

    async def _receive(
        self,
        response: aiohttp.ClientResponse,
        piece: Range,
        source: str,
        check: ThroughputCheck | None = None,
    ) -> None:
        """Write up to the end of the piece; further bytes of the response are ignored."""
        at, end = piece
        async for chunk in response.content.iter_any():
            self._transfer.on_received(source, len(chunk))
            if check is not None:
                check.add(len(chunk))
            if at + len(chunk) > end and self._source.sha256 is None:
                raise http.RetryableError("sends more bytes than it lists")
            self._part.write(at, chunk[: end - at])
            at += len(chunk)
            self._options.on_write()
            await self._transfer.throttle.wait(len(chunk))
            if at >= end:
                return
            if check is not None:
                check.start_wait()
        raise http.RetryableError("stopped in the middle of the file")

    def _final_error(self, failure: Exception, attempts: int) -> TransferError:
        stays = "what has arrived stays. Try again later."
        if self._source.url is None:
            return TransferError("no_peer", f"No other node sends {self._part.path.stem} now; {stays}")
        times = f"{attempts} times in a row"
        if isinstance(failure, http.RetryableError):
            return TransferError("hub_error", f"The hub {failure} {times}; try again later.")
        return TransferError("hub_unreachable", f"The connection failed {times}; {stays}")
