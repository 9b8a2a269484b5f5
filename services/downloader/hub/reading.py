"""A few bytes of a file on the hub, without fetching the file."""

import asyncio

import aiohttp

from modelyard.files.gguf.parse import Contents
from modelyard.files.gguf.reader import Reading
from services.downloader.answers import TryAgain, check_part, check_status
from services.downloader.errors import TransferError
from services.downloader.hub import access
from services.downloader.hub.refusals import unreachable
from services.downloader.redirects import get_bytes
from services.downloader.selection.files import RemoteFile

MOST_HEADER_BYTES = 32 * 1024 * 1024
"""Twice what the largest real headers have."""
_GROWTH = 2
_PART_S = 10.0
_TRIES = 2
_PAUSE_S = 0.5


class RemoteFiles:
    """The files of one repository at one commit; use it with an open session."""

    def __init__(self, session: aiohttp.ClientSession, repo: str, commit: str) -> None:
        self._session = session
        self._repo = repo
        self._commit = commit

    async def header(self, file: RemoteFile) -> Contents:
        """What stands in front of the weights of a GGUF file; GgufError if it is none."""
        reading = Reading(file.path, file.size_bytes, most_bytes=MOST_HEADER_BYTES, growth=_GROWTH)
        at = 0
        while True:
            wanted_bytes = reading.wanted_bytes
            data = await self.part(file, at, wanted_bytes)
            # A header full of strings takes long enough to read that others should not wait for it.
            contents = await asyncio.to_thread(reading.feed, data)
            if contents is not None:
                return contents
            at += wanted_bytes

    async def text(self, file: RemoteFile, most_bytes: int) -> bytes | None:
        """The whole of a small file; None if it is larger than that."""
        if file.size_bytes > most_bytes:
            return None
        return await self.part(file, 0, file.size_bytes)

    async def part(self, file: RemoteFile, at: int, count: int) -> bytes:
        """So many bytes from there on; fewer only where the file ends sooner than the hub says."""
        if count == 0:
            return b""
        for turn in range(_TRIES):
            try:
                return await self._get(file, at, count)
            except (TryAgain, aiohttp.ClientError, TimeoutError) as error:
                if turn + 1 == _TRIES:
                    raise _gave_up(error) from error
            await asyncio.sleep(_PAUSE_S * 2**turn)
        raise AssertionError("every try returns or raises")

    async def _get(self, file: RemoteFile, at: int, count: int) -> bytes:
        url = access.file_url(self._repo, file.path, self._commit, endpoint=access.hub_endpoint())
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={at}-{at + count - 1}"}
        async with asyncio.timeout(_PART_S):
            async with get_bytes(
                self._session, url, headers, access.authorization(), lambda _headers: None
            ) as response:
                check_status(response, url)
                skipped = at
                # Who knows no ranges sends the whole file; no more of it is read than was asked for.
                if response.status != 200:
                    check_part(response, (at, at + count), file.size_bytes)
                    skipped = 0
                return (await _read(response, skipped + count))[skipped:]


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk[: most_bytes - len(found)]
        if len(found) == most_bytes:
            break
    return bytes(found)


def _gave_up(error: Exception) -> Exception:
    if isinstance(error, TryAgain):
        return TransferError("hub_error", f"The hub {error} {_TRIES} times in a row; try again later.")
    return unreachable(access.hub_endpoint())
