"""The files of a repository at one commit, with what the hub lists about it."""

import re
import time
from datetime import datetime

from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from services.downloader.errors import HubError
from services.downloader.hub.access import reachable_endpoint
from services.downloader.hub.errors import disabled, translated_errors
from services.downloader.hub.metadata import RepoListing
from services.downloader.reference import Reference
from services.downloader.selection.files import RemoteFile

_REQUEST_TIMEOUT_S = 20.0
_PAUSES_S = (1.0, 3.0)
_MAX_RETRY_AFTER_S = 300.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_RETRYABLE = frozenset({"hub_error", "hub_unreachable", "hub_rate_limited"})


def list_repo(
    reference: Reference,
    *,
    endpoint: str | None = None,
    pauses_s: tuple[float, ...] = _PAUSES_S,
    max_retry_after_s: float = _MAX_RETRY_AFTER_S,
) -> RepoListing:
    """The repository at the reference's revision, or HubError. Blocks; failures are retried after pauses_s.

    A longer Retry-After than max_retry_after_s is an error.
    """
    endpoint = reachable_endpoint(endpoint)
    for pause_s in pauses_s:
        try:
            return _request(reference, endpoint)
        except HubError as error:
            if error.code not in _RETRYABLE or error.retry_after_s > max_retry_after_s:
                raise
            time.sleep(max(pause_s, error.retry_after_s))
    return _request(reference, endpoint)


def _request(reference: Reference, endpoint: str) -> RepoListing:
    with translated_errors(endpoint, reference.repo, reference.revision):
        info = HfApi(endpoint=endpoint).model_info(
            reference.repo, revision=reference.revision, files_metadata=True, timeout=_REQUEST_TIMEOUT_S
        )
        if info.disabled:
            raise disabled(reference.repo)
        return _listing(info)


def _listing(info: ModelInfo) -> RepoListing:
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise ValueError("no commit")
    return RepoListing(
        commit=info.sha,
        files=tuple(_remote_file(entry) for entry in info.siblings or ()),
        task=text_or_none(info.pipeline_tag),
        license=license_of(info),
        gated=bool(info.gated),
        private=bool(info.private),
        downloads=count_or_none(info.downloads),
        likes=count_or_none(info.likes),
        updated_at=unix_time(info.last_modified),
        tags=tuple(info.tags or ()),
    )


def _remote_file(entry: RepoSibling) -> RemoteFile:
    size_bytes, sha256, blob_sha1 = entry.size, None, entry.blob_id
    if entry.lfs is not None:
        size_bytes, sha256, blob_sha1 = entry.lfs.size, entry.lfs.sha256, None
        if not _SHA256.fullmatch(sha256):
            raise ValueError("no sha256")
    if not isinstance(size_bytes, int) or size_bytes < 0:
        raise ValueError("no size")
    is_sha1 = isinstance(blob_sha1, str) and _SHA1.fullmatch(blob_sha1)
    return RemoteFile(
        path=entry.rfilename,
        size_bytes=size_bytes,
        sha256=sha256,
        blob_sha1=blob_sha1 if is_sha1 else None,
    )


def license_of(info: ModelInfo) -> str | None:
    """The license among the tags, which is where the hub keeps it whatever the model card says."""
    licenses = (tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:"))
    return next(licenses, None)


def text_or_none(value: object) -> str | None:
    """An unchecked value of the hub, None unless it is text."""
    return value if isinstance(value, str) else None


def count_or_none(value: object) -> int | None:
    """An unchecked value of the hub, None unless it is a count."""
    return value if isinstance(value, int) and value >= 0 else None


def unix_time(value: datetime | None) -> float | None:
    """Unix seconds."""
    return value.timestamp() if value else None
