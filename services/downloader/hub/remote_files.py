"""Parts of a file on the hub, such as the header of a GGUF, without a download of the file."""

import asyncio

import aiohttp

from modelyard.backoff import exponential_s
from modelyard.files.gguf.parse import GgufContents
from modelyard.files.gguf.reader import HeaderReader
from services.downloader.errors import TransferError
from services.downloader.hub.access import authorization, file_url, hub_endpoint, unreachable
from services.downloader.selection.files import RemoteFile
from services.downloader.transfer import http

MAX_HEADER_BYTES = 32 * 1024 * 1024
"""Twice the size of the largest real headers."""
_GROWTH = 2
_REQUEST_TIMEOUT_S = 10.0
_ATTEMPTS = 2
_FIRST_PAUSE_S = 0.5


class RemoteFiles:
    def __init__(self, session: aiohttp.ClientSession, repo: str, commit: str) -> None:
        self._session = session
        self._repo = repo
        self._commit = commit

    async def header(self, file: RemoteFile) -> GgufContents:
        """The header of a GGUF file; GgufError if it has none."""
        reading = HeaderReader(file.path, file.size_bytes, most_bytes=MAX_HEADER_BYTES, growth=_GROWTH)
        at = 0
        while True:
            wanted_bytes = reading.wanted_bytes
            data = await self.part(file, at, wanted_bytes)
            # In a thread, since parsing a header full of strings would block the event loop.
            contents = await asyncio.to_thread(reading.feed, data)
            if contents is not None:
                return contents
            at += wanted_bytes

    async def part(self, file: RemoteFile, at: int, count: int) -> bytes:
        """`count` bytes from `at`; fewer only where the file is shorter than the hub lists."""
        if count == 0:
            return b""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._get(file, at, count)
            except http.RetryableError as error:
                if attempt == _ATTEMPTS:
                    sentence = f"The hub {error} {_ATTEMPTS} times in a row; try again later."
                    raise TransferError("hub_error", sentence) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                if attempt == _ATTEMPTS:
                    raise unreachable(hub_endpoint()) from error
            await asyncio.sleep(exponential_s(attempt, _FIRST_PAUSE_S))
        raise AssertionError("every attempt returns or raises")

    async def _get(self, file: RemoteFile, at: int, count: int) -> bytes:
        url = file_url(self._repo, file.path, self._commit, endpoint=hub_endpoint())
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={at}-{at + count - 1}"}
        request = http.get_bytes(self._session, url, headers, authorization(), lambda _headers: None)
        async with asyncio.timeout(_REQUEST_TIMEOUT_S), request as response:
            http.check_status(response, url)
            if response.status == 200:  # without support for ranges the whole file is sent
                return (await _read(response, at + count))[at:]
            http.check_content_range(response, (at, at + count), file.size_bytes)
            return await _read(response, count)


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk[: most_bytes - len(data)]
        if len(data) == most_bytes:
            break
    return bytes(data)
