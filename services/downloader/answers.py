"""What the answer to a GET of a file means: bytes, try again, or give up."""

import re

from aiohttp import ClientResponse
from yarl import URL

from services.downloader.backoff import parse_retry_after_s
from services.downloader.errors import TransferError
from services.downloader.origin import same_origin

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_CODES = {
    "GatedRepo": "gated_repo",
    "RepoNotFound": "repo_not_found",
    "RevisionNotFound": "revision_not_found",
    "EntryNotFound": "entry_not_found",
}
_SENTENCES = {
    "gated_repo": "The repository is gated or private; accept its terms on the hub and set HF_TOKEN.",
    "repo_not_found": "The repository is gone from the hub, or private; check its name.",
    "revision_not_found": "That revision is gone from the hub; choose another.",
    "entry_not_found": "The file is gone from the hub; start the download anew.",
}


class TryAgain(Exception):
    """The attempt brought nothing, the next one may."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def check_status(response: ClientResponse, hub_url: str) -> None:
    """Let 200, 206 and 416 pass; raise TryAgain or, when the hub itself says no, TransferError."""
    status = response.status
    if status in {200, 206, 416}:
        return
    at_hub = same_origin(response.url, URL(hub_url))
    if status in {408, 429} or status >= 500 or not at_hub:  # elsewhere a 403 is but an expired address
        raise TryAgain(f"answered {status}", parse_retry_after_s(response.headers.get("Retry-After")))
    code = _CODES.get(response.headers.get("X-Error-Code", ""))
    code = code or {401: "gated_repo", 403: "gated_repo", 404: "entry_not_found"}.get(status, "hub_error")
    raise TransferError(code, _SENTENCES.get(code, f"The hub answered {status} for a file; try again later."))


def continues(response: ClientResponse, offset_bytes: int, size_bytes: int) -> bool:
    """Whether a 206 goes on exactly where we stopped, in a file of the size we expect."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == offset_bytes and found[2] in {"*", str(size_bytes)}


def strong_etag(response: ClientResponse) -> str | None:
    """The ETag if it vouches for every byte."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None
