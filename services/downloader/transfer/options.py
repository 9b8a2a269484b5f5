"""The parameters of a transfer: source, retries, limits for peers, bandwidth, callbacks."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

import msgspec
from msgspec import Struct

from modelyard.backoff import exponential_s, with_jitter
from services.downloader.transfer.disk import MARGIN_BYTES

_MAX_RETRY_AFTER_S = 600.0
_JITTER = 0.25


class FileSource(Struct, frozen=True, kw_only=True):
    """A file behind a URL; `authorization` is the whole header and is sent to the URL's origin only."""

    url: str | None
    """None: peers are the only source."""
    size_bytes: int
    sha256: str | None
    """Without it only an ETag proves that bytes belong together."""
    blob_sha1: str | None = None
    """Git's hash of a file without a sha256; it counts where the ETag of the bytes is the same."""
    commit: str | None = None
    """The commit in the URL, checked where the server names one."""
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"FileSource({self.url!r}, {self.size_bytes} bytes)"


class PeerOffer(Struct, frozen=True, kw_only=True):
    """A node that has a file, and the token that authorizes the download from it."""

    node: str
    url: str
    token: str

    def __repr__(self) -> str:
        return f"PeerOffer({self.node!r}, {self.url!r})"


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Attempts in a row without a new byte, and the pause between them."""

    attempts: int = 6
    first_pause_s: float = 1.0
    max_pause_s: float = 30.0
    unreachable_s: float = 300.0
    """How long an unreachable network is retried, whatever the number of attempts."""

    def is_exhausted(self, idle_attempts: int, idle_s: float, *, unreachable: bool) -> bool:
        """Whether to stop after idle_attempts without a byte in idle_s."""
        return idle_attempts >= self.attempts and (not unreachable or idle_s >= self.unreachable_s)

    def pause_s(self, idle_attempts: int, retry_after_s: float | None) -> float:
        """The pause after idle_attempts; the server's Retry-After takes precedence."""
        if retry_after_s is not None:
            return min(retry_after_s, _MAX_RETRY_AFTER_S)
        if idle_attempts == 0:
            return self.first_pause_s / 10
        return with_jitter(exponential_s(idle_attempts, self.first_pause_s, self.max_pause_s), _JITTER)


class PeerTimeouts(Struct, frozen=True, kw_only=True):
    """Limits for peers, much shorter than the hub's: peers are near, and the hub is the alternative."""

    connect_s: float = 3.0
    silence_s: float = 10.0
    min_bytes_s: float = 256 * 1024
    """Of one connection, over `measured_s` at least; below it the hub is preferred."""
    measured_s: float = 5.0


class Throttle:
    """The bandwidth limit that all connections of a download share; it may change at any time."""

    def __init__(self) -> None:
        self._bytes_per_s: int | None = None
        self._free_at = 0.0
        self._changed = asyncio.Event()

    def set_limit(self, bytes_per_s: int | None) -> None:
        """None: no limit."""
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait(self, count_bytes: int) -> None:
        """Wait as long as the limit requires after count_bytes have been read."""
        if self._bytes_per_s is None:
            return
        now = monotonic()
        self._free_at = max(self._free_at, now) + count_bytes / self._bytes_per_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), self._free_at - now)


def _ignore(*_: object) -> None:
    pass


class TransferOptions(Struct, frozen=True, kw_only=True):
    retry_policy: RetryPolicy = RetryPolicy()
    segments: int = 1
    """Parallel connections for a large file."""
    margin_bytes: int = MARGIN_BYTES
    throttle: Throttle = msgspec.field(default_factory=Throttle)
    on_problem: Callable[[str], None] = _ignore
    """Called with a sentence when nothing arrives and the transfer is retried."""
    on_received: Callable[[str, int], None] = _ignore
    """Called with the source, `hub` or a node's name, and the number of bytes."""
    find_peers: Callable[[FileSource], Awaitable[Sequence[PeerOffer]]] | None = None
    """Returns the nodes that have a file; without it the hub is the only source."""
    on_hash_mismatch: Callable[[FileSource, tuple[str, ...]], None] = _ignore
    """Called with the nodes that sent bytes of a file whose hash is wrong."""
    peer_timeouts: PeerTimeouts = PeerTimeouts()
