"""The bytes of one file, from their source to their place: resumed, retried, hashed, and only then named."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec

from modelyard.bus import logs
from services.downloader import ranges
from services.downloader.backoff import RetryPolicy
from services.downloader.connections import (
    Changed,
    Connections,
    Manner,
    NoRanges,
    OnReceived,
    OnTrouble,
)
from services.downloader.disk import (
    MARGIN_BYTES,
    blob_sha1,
    file_bytes,
    forget_part,
    hash_file,
    part_path,
    publish,
    require_free,
)
from services.downloader.errors import TransferError, disk_error
from services.downloader.givers import Givers, Pace, Seeking
from services.downloader.hashing import Hashing
from services.downloader.keeping import Keeping
from services.downloader.part_file import PartFile, forget_empty_part
from services.downloader.source import Source
from services.downloader.throttle import Throttle

log = logs.get(__name__)
OnBytes = Callable[[int], None]

TRIES = 3
"""So often a file may arrive damaged."""
MIN_PIECE_BYTES = 8 * 1024 * 1024
MAX_PIECE_BYTES = 64 * 1024 * 1024
_READ_BYTES = 256 * 1024


def _nothing(*_: object) -> None:
    pass


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How files are fetched."""

    policy: RetryPolicy = RetryPolicy()
    segments: int = 1
    """Parts of a large file that come at the same time."""
    margin_bytes: int = MARGIN_BYTES
    throttle: Throttle = msgspec.field(default_factory=Throttle)
    on_trouble: OnTrouble = _nothing
    on_received: OnReceived = _nothing
    seek: Seeking | None = None
    """Asks which other nodes have a file; without it the hub is the only source."""
    on_lie: Callable[[Source, tuple[str, ...]], None] = _nothing
    """Hears which nodes gave bytes of a file that turned out to be wrong."""
    pace: Pace = Pace()


def open_session() -> aiohttp.ClientSession:
    """A session for long transfers: no limit on the whole, 30 s on silence."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30),
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        read_bufsize=_READ_BYTES,
    )


async def fetch_file(
    session: aiohttp.ClientSession,
    source: Source,
    dest: Path,
    *,
    on_bytes: OnBytes = _nothing,
    options: Options | None = None,
) -> None:
    """Bring source to dest or raise TransferError; on_bytes hears how many bytes of the file are here now.

    A dest with the right bytes counts as done; its hash is checked, for another commit may have as many.
    What was fetched before lies in `<dest>.part`, with a journal beside it, and is continued.
    """
    options = options or Options()
    if file_bytes(dest) == source.size_bytes:
        on_bytes(source.size_bytes)
        options.on_trouble(f"{dest.name} is here already; its bytes are being checked.")
    if not await asyncio.to_thread(is_there, source, dest):
        try:
            await _fetch(_Fetch(session, source, dest, on_bytes, options))
        except TransferError:
            forget_empty_part(dest, source)
            raise
    forget_part(dest)


async def _fetch(fetch: "_Fetch") -> None:
    tries = 0
    while tries < TRIES:
        if await fetch.fill():
            await asyncio.to_thread(publish, part_path(fetch.dest), fetch.dest)
            return
        forget_part(fetch.dest)
        tries += not fetch.blame()
    raise TransferError(
        "hash_mismatch",
        f"{fetch.dest.name} arrived damaged {TRIES} times: its hash is not the one that the hub lists. "
        "Try again later.",
    )


def is_there(source: Source, dest: Path) -> bool:
    """Whether dest holds what the hub lists."""
    if file_bytes(dest) != source.size_bytes:
        return False
    try:
        if source.sha256 is not None:
            return hash_file(dest) == source.sha256
        return source.blob_sha1 is None or blob_sha1(dest) == source.blob_sha1
    except OSError as error:
        raise disk_error(error, dest.name) from error


class _Fetch:
    """The tries at one file."""

    def __init__(
        self, session: aiohttp.ClientSession, source: Source, dest: Path, on_bytes: OnBytes, options: Options
    ) -> None:
        self.dest = dest
        self._session = session
        self._source = source
        self._on_bytes = on_bytes
        self._options = options
        self._givers = Givers(source, options.seek)
        self._in_pieces = True
        self._changes = 0
        self._gave: set[str] = set()

    async def fill(self) -> bool:
        """Fetch what is missing; whether the bytes are those that the hub lists."""
        with PartFile(self.dest, self._source, self._on_bytes) as part:
            if self._source.sha256 is None and not (part.etags and part.done_bytes < part.size_bytes):
                part.restart()  # nobody could vouch any more for the bytes that are here
            missing_bytes = part.size_bytes - part.done_bytes
            require_free(self.dest.parent, missing_bytes, self._options.margin_bytes)
            if missing_bytes:
                await self._givers.look()
            while True:
                try:
                    return await self._fill(part)
                except NoRanges:
                    self._in_pieces = False
                except Changed:
                    self._note_change()
                    part.restart()
                finally:
                    self._gave |= part.givers

    def blame(self) -> bool:
        """The bytes were wrong: whether nodes are to blame, so that another try has other sources.

        With a hub, that is the only source from now on. Without one the node that gave the bytes is left out;
        where there were several, one at a time is asked from now on. TransferError if nobody is left.
        """
        nodes, self._gave = tuple(sorted(self._gave)), set()
        if not nodes:
            return False
        self._options.on_trouble(
            f"{', '.join(nodes)} gave wrong bytes of {self.dest.name}; it is fetched anew."
        )
        if self._source.url is None and len(nodes) > 1:
            was_alone, self._givers.alone = self._givers.alone, True
            return not was_alone
        self._options.on_lie(self._source, nodes)
        self._givers.distrust(nodes)
        if self._source.url is not None:
            self._givers = Givers(self._source, None)
        elif self._givers.nobody:
            raise TransferError(
                "hash_mismatch",
                f"The file {self.dest.name} of {nodes[0]} is not what is known of it; "
                "check it there: yard library verify.",
            )
        return True

    def _note_change(self) -> None:
        log.warning("file_changed_at_hub", file=self.dest.name)
        self._changes += 1
        if self._changes == TRIES:
            raise TransferError(
                "changed_at_hub", f"{self.dest.name} changes at the hub while it is fetched; retry it later."
            )

    async def _fill(self, part: PartFile) -> bool:
        """Watch the bytes come in, and give the verdict when they are there."""
        hashing = None
        if self._source.sha256 is not None:
            hashing = Hashing(part.handle, part.size_bytes, lambda: ranges.frontier(part.ranges))
        keeping = Keeping(part, hashing, self._options.margin_bytes)
        threads = [each for each in (hashing, keeping) if each is not None]
        for each in threads:
            each.start()

        def on_write() -> None:
            for each in threads:
                each.wake()

        try:
            await self._connections(part, on_write).run(self._segments)
            return await asyncio.to_thread(self._is_right, part, hashing)
        except OSError as error:
            raise disk_error(error, self.dest.name) from error
        finally:
            for each in threads:
                each.leave()

    @property
    def _segments(self) -> int:
        """Without a hash there is one: nothing would prove that what several brought belongs together."""
        return self._options.segments if self._source.sha256 is not None else 1

    def _is_right(self, part: PartFile, hashing: Hashing | None) -> bool:
        """Some mirrors make up their listings: git's name counts if who sends the bytes says it, too."""
        if hashing is not None:
            return hashing.finish() == self._source.sha256
        named = self._source.blob_sha1
        return f'"{named}"' not in part.etags.values() or blob_sha1(part.path) == named

    def _connections(self, part: PartFile, on_write: Callable[[], None]) -> Connections:
        options, size_bytes = self._options, part.size_bytes
        manner = Manner(
            policy=options.policy,
            throttle=options.throttle,
            on_trouble=options.on_trouble,
            on_write=on_write,
            on_received=options.on_received,
            pace=options.pace,
            in_pieces=self._in_pieces,
            # Of two servers behind one name, each may have its own for the same bytes; then the hash decides.
            one_etag=self._source.sha256 is None or self._changes == 0,
        )
        missing = ranges.gaps(part.ranges, 0, size_bytes)
        todo = ranges.pieces(missing, piece_bytes(size_bytes, self._segments))
        if missing and not self._in_pieces:
            todo = [(0, size_bytes)]
        return Connections(self._session, self._source, part, manner, self._givers, todo)


def piece_bytes(size_bytes: int, segments: int) -> int:
    """How much of a file one request asks for; small files and single segments come in one."""
    if segments == 1 or size_bytes < 2 * MIN_PIECE_BYTES:
        return max(1, size_bytes)
    return max(MIN_PIECE_BYTES, min(MAX_PIECE_BYTES, size_bytes // (4 * segments)))
