"""The HTTP side: GET /files/SHA256 with a token in the header. Everything else is a 401 that says nothing."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

from aiohttp import hdrs, web

from modelyard.bus import logs
from services.downloader.library import inside
from services.downloader.peers.grants import Given, Grants

log = logs.get(__name__)

CHUNK_BYTES = 1024 * 1024
AT_ONCE = 64
"""Requests that are answered at the same time; the next ones are told to come again."""
_FILES = "/files/"
_BEARER = "Bearer "


class Server:
    """Listens where and when it is told to."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._runner: web.AppRunner | None = None
        self._where: tuple[str, int] | None = None
        self._at_work = 0
        self._moving = asyncio.Lock()

    async def listen(self, host: str, port: int) -> int:
        """The port where it listens on `host` from now on; OSError if it cannot."""
        async with self._moving:
            if self._runner is None or self._where != (host, port):
                await self._stop()
                await self._start(host, port)
            assert self._runner is not None
            bound: int = self._runner.addresses[0][1]
            return bound

    async def stop(self) -> None:
        """Answer nothing any more."""
        async with self._moving:
            await self._stop()

    async def _start(self, host: str, port: int) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._where = runner, (host, port)
        log.info("peers_served", host=host, port=runner.addresses[0][1])

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        given = self._given(request)
        if given is None:
            return _silent(401)
        if self._at_work >= AT_ONCE:
            return _silent(503)
        self._at_work += 1
        try:
            return await _send(request, given)
        finally:
            self._at_work -= 1

    def _given(self, request: web.Request) -> Given | None:
        authorization = request.headers.get(hdrs.AUTHORIZATION, "")
        sha256 = request.raw_path.removeprefix(_FILES)
        if request.method != hdrs.METH_GET or sha256 == request.raw_path:
            return None
        if not authorization.startswith(_BEARER):
            return None
        return self._grants.check(sha256, authorization.removeprefix(_BEARER))


async def _send(request: web.Request, given: Given) -> web.StreamResponse:
    with ExitStack() as held:
        try:
            file = held.enter_context(inside.opened(given.root, given.file.path))
        except OSError as error:
            log.warning("file_not_given", path=given.file.path, error=error.strerror)
            return _silent(404)
        if not _is_same(file, given):
            log.warning("file_not_given", path=given.file.path, error="it was changed")
            return _silent(404)
        return await _send_open(request, file, given.file.size_bytes)


async def _send_open(request: web.Request, file: BinaryIO, size_bytes: int) -> web.StreamResponse:
    try:
        start, end = _asked(request, size_bytes)
    except ValueError:
        response = _silent(416)
        response.headers[hdrs.CONTENT_RANGE] = f"bytes */{size_bytes}"
        return response
    partial = hdrs.RANGE in request.headers
    answer = web.StreamResponse(status=206 if partial else 200, headers=_HEADERS)
    answer.content_type = "application/octet-stream"
    answer.content_length = end - start
    if partial:
        answer.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{size_bytes}"
    await answer.prepare(request)
    for at, count in _chunks(start, end):
        chunk = await asyncio.to_thread(os.pread, file.fileno(), count, at)
        if len(chunk) < count:
            return _broken_off(request, answer)
        await answer.write(chunk)
    await answer.write_eof()
    return answer


def _broken_off(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """The file became shorter: the receiver must not take what it has got for all of it."""
    log.warning("file_became_shorter", path=request.path)
    if request.transport is not None:
        request.transport.abort()
    return answer


def _asked(request: web.Request, size_bytes: int) -> tuple[int, int]:
    """The bytes that are asked for, the end not included; ValueError for none, or for several ranges."""
    start, end, _ = request.http_range.indices(size_bytes)
    if start >= end and hdrs.RANGE in request.headers:
        raise ValueError("nothing lies there")
    return start, end


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    for at in range(start, end, CHUNK_BYTES):
        yield at, min(CHUNK_BYTES, end - at)


def _is_same(file: BinaryIO, given: Given) -> bool:
    """Whether it is the file that was promised, as far as its size and time tell; the receiver hashes it."""
    found = os.fstat(file.fileno())
    return (found.st_size, found.st_mtime_ns) == (given.file.size_bytes, given.file.modified_ns)


_HEADERS = {hdrs.SERVER: "modelyard", hdrs.ACCEPT_RANGES: "bytes", hdrs.CACHE_CONTROL: "no-store"}


def _silent(status: int) -> web.Response:
    return web.Response(status=status, headers={hdrs.SERVER: "modelyard"})
