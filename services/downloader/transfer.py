"""The bytes of one file, from the hub to their place: resumed, retried, hashed, and only then named."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
from msgspec import Struct

from services.downloader.answers import TryAgain, check_status, continues, strong_etag
from services.downloader.backoff import RetryPolicy
from services.downloader.disk import (
    CHUNK_BYTES,
    MARGIN_BYTES,
    file_bytes,
    hash_file,
    part_path,
    publish,
    require_free,
)
from services.downloader.errors import TransferError, disk_error
from services.downloader.part_file import PartFile
from services.downloader.redirects import get_bytes

OnBytes = Callable[[int], None]


class Source(Struct, frozen=True, kw_only=True):
    """A file at the hub; authorization is the whole header's value and goes to url's origin only."""

    url: str
    size_bytes: int
    sha256: str | None
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"Source({self.url!r}, {self.size_bytes} bytes)"


def open_session() -> aiohttp.ClientSession:
    """A session for long transfers: no limit on the whole, 30 s on silence."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30),
        auto_decompress=False,
        read_bufsize=CHUNK_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def fetch_file(
    session: aiohttp.ClientSession,
    source: Source,
    dest: Path,
    *,
    on_bytes: OnBytes = lambda _: None,
    policy: RetryPolicy | None = None,
    margin_bytes: int = MARGIN_BYTES,
) -> None:
    """Bring source to dest or raise TransferError; on_bytes hears how many bytes of the file are here now.

    A dest with the right bytes counts as done; its hash is checked, for another commit may have as many.
    What was fetched before lies in `<dest>.part` and is continued.
    """
    if is_there(source, dest, on_bytes):
        return
    part = part_path(dest)
    if source.sha256 is None:  # nothing could prove that the old bytes belong to this file
        _forget(part)
    require_free(dest.parent, source.size_bytes - (file_bytes(part) or 0), margin_bytes)
    fetch = _Fetch(session, source, on_bytes, policy or RetryPolicy())
    for _ in range(2):
        if await fetch.fill(part):
            publish(part, dest)
            return
        _forget(part)
    raise TransferError(
        "hash_mismatch",
        f"{dest.name} arrived damaged twice: its sha256 or size is not what the hub lists. Try again later.",
    )


def is_there(source: Source, dest: Path, on_bytes: OnBytes) -> bool:
    """Whether dest holds what the hub lists."""
    if file_bytes(dest) != source.size_bytes:
        return False
    if source.sha256 is None:
        on_bytes(source.size_bytes)
        return True
    try:
        return hash_file(dest, on_bytes).hexdigest() == source.sha256
    except OSError as error:
        raise disk_error(error, dest.name) from error


class _Fetch:
    """The attempts at one file; the ETag matters only where the hub gives no hash."""

    def __init__(
        self, session: aiohttp.ClientSession, source: Source, on_bytes: OnBytes, policy: RetryPolicy
    ) -> None:
        self._session = session
        self._source = source
        self._on_bytes = on_bytes
        self._policy = policy
        self._etag: str | None = None

    async def fill(self, path: Path) -> bool:
        """Fetch what is missing; whether the bytes are those that the hub lists."""
        size_bytes, sha256 = self._source.size_bytes, self._source.sha256
        with PartFile(path, self._on_bytes) as part:
            if part.size_bytes > size_bytes:
                part.restart()
            await self._retry(part)
            return part.size_bytes == size_bytes and sha256 in {None, part.sha256}

    async def _retry(self, part: PartFile) -> None:
        idle_attempts, most_bytes = 0, part.size_bytes
        while part.size_bytes < self._source.size_bytes:
            failure = await self._attempt_safely(part)
            if part.size_bytes >= self._source.size_bytes:
                return
            idle_attempts = 0 if part.size_bytes > most_bytes else idle_attempts + 1
            most_bytes = max(most_bytes, part.size_bytes)
            if idle_attempts >= self._policy.attempts:
                raise _gave_up(failure, idle_attempts)
            retry_after_s = failure.retry_after_s if isinstance(failure, TryAgain) else None
            await asyncio.sleep(self._policy.pause_s(idle_attempts, retry_after_s))

    async def _attempt_safely(self, part: PartFile) -> Exception | None:
        try:
            await self._attempt(part)
        except (TryAgain, aiohttp.ClientError, TimeoutError) as error:
            return error
        return None

    async def _attempt(self, part: PartFile) -> None:
        source = self._source
        headers = self._headers(part.size_bytes)
        async with get_bytes(self._session, source.url, headers, source.authorization) as response:
            check_status(response, source.url)
            self._check_place(response, part)
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                part.append(chunk)
                if part.size_bytes > source.size_bytes:
                    return

    def _headers(self, offset_bytes: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if offset_bytes and (self._source.sha256 or self._etag):
            headers["Range"] = f"bytes={offset_bytes}-"
        if "Range" in headers and self._etag:
            headers["If-Range"] = self._etag
        return headers

    def _check_place(self, response: aiohttp.ClientResponse, part: PartFile) -> None:
        """A 200 starts the file anew; anything that does not fit what we have is thrown away."""
        etag = strong_etag(response) if self._source.sha256 is None else None
        known, self._etag = self._etag, etag
        if response.status == 200:
            if part.size_bytes:
                part.restart()
            return
        fits = response.status == 206 and continues(response, part.size_bytes, self._source.size_bytes)
        if not fits or (part.size_bytes and etag != known):
            part.restart()
            raise TryAgain("answered with another part of the file")


def _forget(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, part.name) from error


def _gave_up(failure: Exception | None, attempts: int) -> TransferError:
    if isinstance(failure, TryAgain):
        return TransferError("hub_error", f"The hub {failure} {attempts} times in a row; try again later.")
    sentence = f"The connection failed {attempts} times in a row; what has arrived is kept. Try again later."
    return TransferError("hub_unreachable", sentence)
