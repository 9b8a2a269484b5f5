"""The files of this node for peers: commands that list them and issue tokens, and an HTTP server.

`GET /files/SHA256` needs a token of that file; any other request gets a 401 without details.
"""

import asyncio
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic
from typing import BinaryIO, NamedTuple

from aiohttp import hdrs, web

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands
from modelyard.bus.tasks import Tasks
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.errors import NotFound
from schemas.peers import EntryFiles, FileOffer, ListEntryFiles, ListRepoFiles, RepoFiles, RequestFile
from services.downloader.library import store_fs
from services.downloader.library.library import NodeLibrary
from services.downloader.peers.client import advertised_host, file_url, listen_host
from services.downloader.peers.inventory import FileHashes, Inventory, StoreFile

log = logs.get(__name__)

TOKEN_TTL_S = 60.0
"""For the start of a request, which may take longer."""
MAX_TOKENS_PER_FILE = 256
CHUNK_BYTES = 1024 * 1024
MAX_REQUESTS = 64
"""Requests served at the same time; further ones get a 503."""
_FILES = "/files/"
_BEARER = "Bearer "
_HEADERS = {hdrs.SERVER: "modelyard", hdrs.ACCEPT_RANGES: "bytes", hdrs.CACHE_CONTROL: "no-store"}
_HASH_WAIT_S = 2.0
"""A caller repeats the query while hashing takes longer."""


class _Token(NamedTuple):
    value: bytes
    file: StoreFile
    expires_at: float


class FileTokens:
    """Random tokens, each valid for one file and a minute."""

    def __init__(self, ttl_s: float = TOKEN_TTL_S, now: Callable[[], float] = monotonic) -> None:
        self.ttl_s = ttl_s
        self._now = now
        self._tokens: dict[str, list[_Token]] = {}
        """By sha256."""

    def issue(self, sha256: str, file: StoreFile) -> str:
        """A new token for a file; beyond the maximum the oldest one is dropped."""
        self._drop_expired()
        token = _Token(secrets.token_urlsafe(32).encode(), file, self._now() + self.ttl_s)
        self._tokens[sha256] = [*self._tokens.get(sha256, []), token][-MAX_TOKENS_PER_FILE:]
        return token.value.decode()

    def check(self, sha256: str, value: str) -> StoreFile | None:
        """The file that the token is for; all tokens are compared, each in constant time."""
        file, presented = None, value.encode(errors="surrogateescape")
        for token in self._tokens.get(sha256, []):
            if hmac.compare_digest(token.value, presented) and token.expires_at > self._now():
                file = token.file
        return file

    def _drop_expired(self) -> None:
        now = self._now()
        valid = {
            sha256: [token for token in tokens if token.expires_at > now]
            for sha256, tokens in self._tokens.items()
        }
        self._tokens = {sha256: tokens for sha256, tokens in valid.items() if tokens}


class FileServer:
    """Serves files to holders of a token; it listens only once a token was issued."""

    def __init__(self, tokens: FileTokens) -> None:
        self._tokens = tokens
        self._runner: web.AppRunner | None = None
        self._address: tuple[str, int] | None = None
        self._requests = 0
        self._lock = asyncio.Lock()

    async def listen(self, host: str, port: int) -> int:
        """Listen on `host`, moving there if necessary; the port. OSError if it cannot."""
        async with self._lock:
            if self._runner is None or self._address != (host, port):
                await self._stop()
                await self._start(host, port)
            assert self._runner is not None
            bound: int = self._runner.addresses[0][1]
            return bound

    async def stop(self) -> None:
        async with self._lock:
            await self._stop()

    async def _start(self, host: str, port: int) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._on_request)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._address = runner, (host, port)
        log.info("peer_server_started", host=host, port=runner.addresses[0][1])

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _on_request(self, request: web.Request) -> web.StreamResponse:
        file = self._authorized_file(request)
        if file is None:
            return _empty(401)
        if self._requests >= MAX_REQUESTS:
            return _empty(503)
        self._requests += 1
        try:
            return await _send(request, file)
        finally:
            self._requests -= 1

    def _authorized_file(self, request: web.Request) -> StoreFile | None:
        authorization = request.headers.get(hdrs.AUTHORIZATION, "")
        sha256 = request.raw_path.removeprefix(_FILES)
        if request.method != hdrs.METH_GET or sha256 == request.raw_path:
            return None
        if not authorization.startswith(_BEARER):
            return None
        return self._tokens.check(sha256, authorization.removeprefix(_BEARER))


async def _send(request: web.Request, offered: StoreFile) -> web.StreamResponse:
    path = offered.file.path
    with ExitStack() as stack:
        try:
            file = stack.enter_context(store_fs.open_file(offered.root, path))
        except OSError as error:
            log.warning("peer_file_not_sent", path=path, error=error.strerror)
            return _empty(404)
        if not offered.is_unchanged(file):
            log.warning("peer_file_not_sent", path=path, error="it was changed")
            return _empty(404)
        return await _send_range(request, file, offered.file.size_bytes)


async def _send_range(request: web.Request, file: BinaryIO, size_bytes: int) -> web.StreamResponse:
    try:
        start, end = _requested_range(request, size_bytes)
    except ValueError:
        refusal = _empty(416)
        refusal.headers[hdrs.CONTENT_RANGE] = f"bytes */{size_bytes}"
        return refusal
    partial = hdrs.RANGE in request.headers
    response = web.StreamResponse(status=206 if partial else 200, headers=_HEADERS)
    response.content_type = "application/octet-stream"
    response.content_length = end - start
    if partial:
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{size_bytes}"
    await response.prepare(request)
    for at in range(start, end, CHUNK_BYTES):
        count = min(CHUNK_BYTES, end - at)
        chunk = await asyncio.to_thread(os.pread, file.fileno(), count, at)
        if len(chunk) < count:
            return _abort(request, response)
        await response.write(chunk)
    await response.write_eof()
    return response


def _abort(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """The file became shorter: the client must not take the response for complete."""
    log.warning("peer_file_truncated", path=request.path)
    if request.transport is not None:
        request.transport.abort()
    return response


def _requested_range(request: web.Request, size_bytes: int) -> tuple[int, int]:
    """Start and excluded end; ValueError for an empty range or several ranges."""
    start, end, _ = request.http_range.indices(size_bytes)
    if start >= end and hdrs.RANGE in request.headers:
        raise ValueError("the range is empty")
    return start, end


def _empty(status: int) -> web.Response:
    return web.Response(status=status, headers={hdrs.SERVER: "modelyard"})


class PeerCommands:
    def __init__(self, bus: Bus, settings: Settings, tasks: Tasks, library: NodeLibrary) -> None:
        self._bus = bus
        self._settings = settings
        self._hashes = FileHashes(tasks)
        self._inventory = Inventory(library, self._hashes)
        self._tokens = FileTokens()
        self._server = FileServer(self._tokens)
        tasks.before_cancel(self._server.stop)

    async def start(self, commands: Commands) -> None:
        await commands.add(subjects.PEER_OFFER, self.on_offer, node=self._bus.node)
        await commands.add(subjects.PEER_ENTRY, self.on_entry, node=self._bus.node)
        await commands.add(subjects.PEER_REPO, self.on_repo, node=self._bus.node)

    async def on_offer(self, query: RequestFile) -> FileOffer:
        """A token for a complete file of this node; the HTTP server starts with the first one."""
        file = self._inventory.by_hash(query.sha256, query.size_bytes)
        if file is None:
            raise NotFound(f"{self._bus.node} has no such file.", param="sha256")
        host, port = await self._listen(query)
        return FileOffer(
            url=file_url(host, port, query.sha256),
            token=self._tokens.issue(query.sha256, file),
            expires_in_s=self._tokens.ttl_s,
        )

    async def _listen(self, query: RequestFile) -> tuple[str, int]:
        host = await listen_host(self._bus, self._settings)
        try:
            advertised = await asyncio.to_thread(advertised_host, host, query.host)
            port = await self._server.listen(host, self._settings.peer_port)
        except (OSError, ValueError) as error:
            raise NotFound(
                f"{self._bus.node} cannot serve files on {host}: {error}; see YARD_PEER_HOST."
            ) from error
        if advertised is None:
            raise NotFound(f"{self._bus.node} serves files on its own machine only; see YARD_PEER_HOST.")
        return advertised, port

    async def on_entry(self, query: ListEntryFiles) -> EntryFiles:
        """The files of an entry; callers repeat the query until every sha256 is there."""
        files = self._inventory.entry(query.entry)
        if files.bytes_to_read:
            await self._hashes.wait(_HASH_WAIT_S)
            files = self._inventory.entry(query.entry)
        return files

    async def on_repo(self, query: ListRepoFiles) -> RepoFiles:
        """The files of a repository; callers repeat the query until every sha256 is there."""
        files = self._inventory.repo(query)
        if files.bytes_to_read:
            await self._hashes.wait(_HASH_WAIT_S)
            files = self._inventory.repo(query)
        return files
