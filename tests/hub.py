"""A Hugging Face hub on the loopback interface for tests, with faults to inject.

It implements what huggingface_hub 2.4 and a plain HTTP client need. Files are redirected to a second server
(`hub.cdn_url`) by a fault; it is another origin, as in the real hub.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.hub_files import (
    ALWAYS,
    About,
    Faults,
    HubFile,
    HubRepo,
    body_chunks,
    hub_file,
    model_info,
    search,
    tree_entry,
)

__all__ = ["ALWAYS", "About", "Faults", "Hub", "HubFile", "HubRepo", "HubRequest"]

DEADLINE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class HubRequest:
    """A request as it arrived."""

    method: str
    server: str  # "hub" or "cdn"
    path: str
    range: str | None
    if_range: str | None
    authorization: str | None


class Hub:
    """`async with Hub() as hub`: a hub at hub.url until the block ends."""

    def __init__(self, *, token: str | None = None) -> None:
        self.token = token  # opens gated and private repositories
        self.url = ""
        self.cdn_url = ""
        self.repos: dict[str, HubRepo] = {}
        self.requests: list[HubRequest] = []
        self.api_statuses: list[int] = []  # answered first to API requests, one each
        self.api_retry_after: str | None = None  # sent along with those
        self._changed = asyncio.Event()
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> Self:
        self.url = await self._serve("hub")
        self.cdn_url = await self._serve("cdn")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()

    def add_repo(
        self,
        name: str,
        files: Mapping[str, bytes | Path],
        *,
        gated: bool = False,
        hides_metadata: bool = False,
        private: bool = False,
        sha: str | None = None,
        lfs: bool = True,
        revisions: tuple[str, ...] = ("main",),
        about: About | None = None,
    ) -> HubRepo:
        """Publish files (a Path is streamed, never read whole); lfs=False hides their sha256."""
        sha = sha or hashlib.sha1(name.encode()).hexdigest()
        hub_files = {path: hub_file(path, content, lfs) for path, content in files.items()}
        repo = HubRepo(
            name=name,
            sha=sha,
            gated=gated,
            hides_metadata=hides_metadata,
            private=private,
            files=hub_files,
            revisions={sha, *revisions},
            about=about or About(),
        )
        self.repos[name] = repo
        return repo

    def file(self, name: str, path: str) -> HubFile:
        """The counters and faults of one file."""
        return self.repos[name].files[path]

    async def wait_until(self, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        """Wait for a condition on the counters, checked at each request and chunk."""
        async with asyncio.timeout(deadline_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, server: str) -> str:
        app = web.Application()

        async def handler(request: web.Request) -> web.StreamResponse:
            return await self._handle(request, server)

        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _handle(self, request: web.Request, server: str) -> web.StreamResponse:
        headers = request.headers
        self.requests.append(
            HubRequest(
                method=request.method,
                server=server,
                path=request.path_qs,
                range=headers.get("Range"),
                if_range=headers.get("If-Range"),
                authorization=headers.get("Authorization"),
            )
        )
        self._changed.set()
        if request.path == "/api/models":
            return self._answer_search(request)
        if request.path.startswith("/api/models/"):
            return self._answer_api(request)
        org, _, rest = request.path[1:].partition("/")
        name, resolve, tail = rest.partition("/resolve/")
        repo = self.repos.get(f"{org}/{name}")
        if not resolve or repo is None:
            return _error(404, "RepoNotFound")
        revision, _, path = tail.partition("/")
        if server == "hub" and (refusal := self._refusal(request, repo, revision, is_file=True)):
            return refusal
        if path not in repo.files:
            return _error(404, "EntryNotFound")
        return await self._answer_file(request, server, repo, repo.files[path])

    def _refusal(
        self, request: web.Request, repo: HubRepo, revision: str, *, is_file: bool
    ) -> web.Response | None:
        allowed = self.token is not None and request.headers.get("Authorization") == f"Bearer {self.token}"
        if repo.about.disabled:
            return web.json_response(
                {}, status=403, headers={"X-Error-Message": "Access to this resource is disabled."}
            )
        if repo.private and not allowed:
            return _error(401, "RepoNotFound")
        if repo.gated and (is_file or repo.hides_metadata) and not allowed:
            return _error(403 if "Authorization" in request.headers else 401, "GatedRepo")
        if revision not in repo.revisions:
            return _error(404, "RevisionNotFound")
        return None

    def _answer_search(self, request: web.Request) -> web.Response:
        if self.api_statuses:
            return _error(self.api_statuses.pop(0), None, self.api_retry_after)
        return web.json_response(search(self.repos.values(), request.query))

    def _answer_api(self, request: web.Request) -> web.Response:
        if self.api_statuses:
            return _error(self.api_statuses.pop(0), None, self.api_retry_after)
        parts = request.path.removeprefix("/api/models/").split("/")
        repo = self.repos.get("/".join(parts[:2]))
        if repo is None:
            return _error(401 if "Authorization" not in request.headers else 404, "RepoNotFound")
        kind, revision = parts[2] if len(parts) > 2 else "", "/".join(parts[3:]) or "main"
        if gate := self._refusal(request, repo, revision, is_file=False):
            return gate
        if kind == "tree":
            return web.json_response([tree_entry(file) for file in repo.files.values()])
        return web.json_response(model_info(repo, blobs="blobs" in request.query))

    async def _answer_file(
        self, request: web.Request, server: str, repo: HubRepo, file: HubFile
    ) -> web.StreamResponse:
        headers = {"X-Repo-Commit": repo.sha, "ETag": _etag(file), **file.faults.extra_headers}
        if not headers["ETag"]:
            del headers["ETag"]
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size_bytes)}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(file.size_bytes)})
        if server == "hub" and file.faults.redirect:
            targets = {"cdn": f"{self.cdn_url}{request.path}?signature=a%2Fb", "loop": request.path}
            location = targets.get(file.faults.redirect, file.faults.redirect)
            return web.Response(status=302, headers=headers | {"Location": location})
        file.requests += 1
        self._changed.set()
        if file.faults.statuses:
            return _error(file.faults.statuses.pop(0), None, file.faults.retry_after)
        file.in_flight += 1
        file.max_in_flight = max(file.in_flight, file.max_in_flight)
        try:
            return await self._send_file(request, file, headers)
        finally:
            file.in_flight -= 1

    async def _send_file(
        self, request: web.Request, file: HubFile, headers: dict[str, str]
    ) -> web.StreamResponse:
        requested = _requested_range(request, file)
        start, end = requested or (0, file.size_bytes)
        if requested and start >= file.size_bytes:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{file.size_bytes}"})
        faults = file.faults
        response = web.StreamResponse(status=206 if requested else 200, headers=headers)
        if requested:
            content_range = faults.content_range or f"bytes {start}-{end - 1}/{file.size_bytes}"
            response.headers["Content-Range"] = content_range
        response.content_length = faults.content_length or end - start + len(faults.extra_bytes)
        await response.prepare(request)
        cut_at = self._cut_at(file)
        sent_bytes = 0
        for chunk in body_chunks(file, start, end):
            part = chunk if cut_at is None else chunk[: cut_at - sent_bytes]
            await response.write(part)
            sent_bytes += len(part)
            file.bytes_sent += len(part)
            self._changed.set()
            if sent_bytes == cut_at:
                return _cut(request, response)
            if file.faults.bytes_per_s:
                await asyncio.sleep(len(part) / file.faults.bytes_per_s)
        await response.write_eof()
        return response

    def _cut_at(self, file: HubFile) -> int | None:
        faults = file.faults
        if faults.cut_after_bytes is None or faults.cut_times <= 0:
            return None
        faults.cut_times -= 1
        return faults.cut_after_bytes


def _etag(file: HubFile) -> str:
    default = f'"{file.sha256 if file.lfs else file.blob_sha1}"'
    return default if file.faults.etag is None else file.faults.etag


def _requested_range(request: web.Request, file: HubFile) -> tuple[int, int] | None:
    """The requested bytes; None for all, also where If-Range names another ETag."""
    requested, etag = request.headers.get("Range"), _etag(file)
    if requested is None or file.faults.ignore_range or request.headers.get("If-Range", etag) != etag:
        return None
    first, _, last = requested.removeprefix("bytes=").partition("-")
    to_end = not last or file.faults.ignore_range_end
    return int(first), file.size_bytes if to_end else min(int(last) + 1, file.size_bytes)


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection; what was written still reaches the client."""
    if request.transport is not None:
        request.transport.close()
    return response


def _error(status: int, code: str | None, retry_after: str | None = None) -> web.Response:
    headers = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return web.json_response({"error": code or status}, status=status, headers=headers)
