"""GET of a file's bytes: redirects that never leak the token, and checks of the response."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import ClientResponse
from yarl import URL

from modelyard.backoff import parse_retry_after_s
from services.downloader.errors import HubError, TransferError
from services.downloader.hub.access import disabled, gated, not_found, proxy_for
from services.downloader.transfer.disk import is_sha256
from services.downloader.transfer.options import FileSource
from services.downloader.transfer.ranges import Range

_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_CODES = {
    "GatedRepo": "gated_repo",
    "RepoNotFound": "repo_not_found",
    "RevisionNotFound": "revision_not_found",
    "EntryNotFound": "entry_not_found",
}
_CODE_BY_STATUS = {401: "gated_repo", 403: "gated_repo", 404: "entry_not_found"}
_DISABLED = "Access to this resource is disabled."
_OTHER_RANGE = "answered with another part of the file"


class RetryableError(Exception):
    """The attempt failed and the next one may succeed; the text continues "The hub"."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@asynccontextmanager
async def get_bytes(
    session: aiohttp.ClientSession,
    url: str,
    headers: dict[str, str],
    authorization: str | None,
    on_origin_headers: Callable[[Mapping[str, str]], None],
) -> AsyncIterator[ClientResponse]:
    """The response after at most 5 redirects; once another origin was met, the token is not sent again.

    `on_origin_headers` gets the headers of every response below 400 from the URL's own origin.
    """
    origin = current = URL(url)
    for _ in range(_MAX_REDIRECTS + 1):
        sent = headers | ({"Authorization": authorization} if authorization else {})
        async with session.get(
            current, headers=sent, allow_redirects=False, proxy=proxy_for(current)
        ) as response:
            if response.status < 400 and same_origin(origin, current):
                on_origin_headers(response.headers)
            if response.status not in _REDIRECTS:
                yield response
                return
            target = _redirect_target(current, response.headers.get("Location", ""))
        if not same_origin(current, target):
            authorization = None
        current = target
    raise TransferError("hub_error", f"The hub redirects more than {_MAX_REDIRECTS} times; try again later.")


def _redirect_target(current: URL, location: str) -> URL:
    """Signed addresses must not change, hence encoded=True."""
    try:
        target = current.join(URL(location, encoded=True))
        if location and target.scheme in {"http", "https"} and target.host:
            return target
    except ValueError:
        pass
    raise TransferError("hub_error", "The hub redirects to something that is not a web address.")


def same_origin(left: URL, right: URL) -> bool:
    return _origin(left) == _origin(right)


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme.lower(), (url.host or "").lower(), url.port


def check_status(response: ClientResponse, hub_url: str) -> None:
    """Accept 200, 206 and 416; raise RetryableError or, where the hub itself refuses, TransferError."""
    status = response.status
    if status in {200, 206, 416}:
        return
    at_hub = same_origin(response.url, URL(hub_url))
    if status in {408, 429} or status >= 500 or not at_hub:  # a 403 of a CDN is only an expired address
        raise RetryableError(f"answered {status}", parse_retry_after_s(response.headers.get("Retry-After")))
    refusal = _refusal(response, hub_url)
    raise TransferError(refusal.code, refusal.sentence)


def _refusal(response: ClientResponse, hub_url: str) -> HubError:
    url = URL(hub_url)
    hub, repo = str(url.origin()), "/".join(url.parts[1:3])
    if response.headers.get("X-Error-Message") == _DISABLED:
        return disabled(repo)
    by_status = _CODE_BY_STATUS.get(response.status, "hub_error")
    code = _CODES.get(response.headers.get("X-Error-Code", ""), by_status)
    match code:
        case "gated_repo":
            return gated(repo, hub)
        case "repo_not_found":
            return not_found(repo)
        case "revision_not_found":
            return HubError(code, f"The hub has no such revision of {repo} any more; choose another.")
        case "entry_not_found":
            return HubError(code, f"The file is no longer in {repo}; start the download again.")
    return HubError(code, f"The hub answered {response.status} for a file; try again later.")


def check_file_identity(headers: Mapping[str, str], source: FileSource) -> None:
    """TransferError if the hub's headers name another commit or hash than the source."""
    commit = headers.get("X-Repo-Commit", source.commit)
    etag = headers.get("X-Linked-Etag", headers.get("ETag", "")).strip('"')
    has_sha256 = source.sha256 is not None and is_sha256(etag)
    if (source.commit and commit != source.commit) or (has_sha256 and etag != source.sha256):
        raise TransferError(
            "changed_at_hub",
            "The hub has another version of the file than when the download began; retry it.",
        )


def check_content_range(response: ClientResponse, requested: Range, size_bytes: int) -> None:
    """Accept a 206 that begins at the requested byte, of a file of the expected size."""
    content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or content_range is None:
        raise RetryableError(_OTHER_RANGE)
    start, end, total = int(content_range[1]), int(content_range[2]) + 1, content_range[3]
    if start != requested[0] or not start < end <= size_bytes or total not in {"*", str(size_bytes)}:
        raise RetryableError(_OTHER_RANGE)


def check_full_response(response: ClientResponse, size_bytes: int) -> None:
    """Accept a 200 of the expected length."""
    length = response.content_length
    if response.status != 200:
        raise RetryableError("answered with a part of the file")
    if length is not None and length != size_bytes:
        raise RetryableError(f"answered with {length} bytes instead of {size_bytes}")


def strong_etag(response: ClientResponse) -> str | None:
    """The ETag if it identifies every byte, None for a weak one."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None
