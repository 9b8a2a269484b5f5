"""What the answer to a GET of a file means: bytes, try again, or give up."""

import re
from collections.abc import Mapping

from aiohttp import ClientResponse
from yarl import URL

from services.downloader.backoff import parse_retry_after_s
from services.downloader.errors import HubError, TransferError
from services.downloader.hub import refusals
from services.downloader.origin import same_origin
from services.downloader.ranges import Range
from services.downloader.source import Source

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CODES = {
    "GatedRepo": "gated_repo",
    "RepoNotFound": "repo_not_found",
    "RevisionNotFound": "revision_not_found",
    "EntryNotFound": "entry_not_found",
}
_BY_STATUS = {401: "gated_repo", 403: "gated_repo", 404: "entry_not_found"}
_DISABLED = "Access to this resource is disabled."


class TryAgain(Exception):
    """The attempt brought nothing, the next one may; the text goes on after "The hub"."""

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
    raise _refusal(response, hub_url)


def _refusal(response: ClientResponse, hub_url: str) -> TransferError:
    """What the hub itself says about one file of a repository."""
    url = URL(hub_url)
    hub, repo = str(url.origin()), "/".join(url.parts[1:3])
    if response.headers.get("X-Error-Message") == _DISABLED:
        return as_transfer(refusals.disabled(repo))
    code = _CODES.get(response.headers.get("X-Error-Code", ""))
    match code or _BY_STATUS.get(response.status, "hub_error"):
        case "gated_repo":
            return as_transfer(refusals.gated(repo, hub))
        case "repo_not_found":
            return as_transfer(refusals.not_found(repo))
        case "revision_not_found":
            return TransferError(
                "revision_not_found", f"That revision of {repo} is gone from the hub; choose another."
            )
        case "entry_not_found":
            return TransferError("entry_not_found", f"The file is gone from {repo}; start the download anew.")
    return TransferError("hub_error", f"The hub answered {response.status} for a file; try again later.")


def as_transfer(error: HubError) -> TransferError:
    """The same refusal, met while bytes are moved."""
    return TransferError(error.code, error.sentence)


def check_hop(headers: Mapping[str, str], source: Source) -> None:
    """What the hub itself says beside a redirect or the bytes: TransferError if that is not our file."""
    commit = headers.get("X-Repo-Commit", source.commit)
    etag = headers.get("X-Linked-Etag", headers.get("ETag", "")).strip('"')
    names_bytes = source.sha256 is not None and _SHA256.fullmatch(etag) is not None
    if (source.commit and commit != source.commit) or (names_bytes and etag != source.sha256):
        raise TransferError(
            "changed_at_hub",
            "The hub has another version of the file than when the download began; retry it.",
        )


def check_part(response: ClientResponse, wanted: Range, size_bytes: int) -> None:
    """Let a 206 pass that begins where it was asked to, in a file of the size we expect."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status != 206 or found is None:
        raise TryAgain("answered with another part of the file")
    start, end = int(found[1]), int(found[2]) + 1
    if start != wanted[0] or not start < end <= size_bytes or found[3] not in {"*", str(size_bytes)}:
        raise TryAgain("answered with another part of the file")


def check_whole(response: ClientResponse, size_bytes: int) -> None:
    """Let a 200 pass that brings as many bytes as the hub lists."""
    length = response.content_length
    if response.status != 200:
        raise TryAgain("answered with a part of the file")
    if length is not None and length != size_bytes:
        raise TryAgain(f"answered with {length} bytes instead of {size_bytes}")


def strong_etag(response: ClientResponse) -> str | None:
    """The ETag if it vouches for every byte."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else None
