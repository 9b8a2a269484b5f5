"""What a repository holds at one commit, asked through the hub's own library; bytes are not moved here."""

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from services.downloader.errors import HubError
from services.downloader.hub.access import check_online, hub_endpoint, probe, quiet_library
from services.downloader.hub.refusals import disabled, explained
from services.downloader.reference import Reference
from services.downloader.selection.files import RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_REQUEST_TIMEOUT_S = 20.0
_PAUSES_S = (1.0, 3.0)
_TIMEOUT_S = 300.0
"""If the hub wants to be left alone for longer, that is told."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_WORTH_ANOTHER_TRY = frozenset({"hub_error", "hub_unreachable", "hub_rate_limited"})


class RepoListing(Struct, frozen=True, kw_only=True):
    """A repository at one commit (40 hex digits). What the hub does not say is None."""

    commit: str
    files: tuple[RemoteFile, ...]
    task: str | None = None
    license: str | None = None
    gated: bool = False
    private: bool = False
    downloads: int | None = None
    likes: int | None = None
    updated_at: float | None = None
    tags: tuple[str, ...] = ()


def list_repo(
    reference: Reference,
    *,
    endpoint: str | None = None,
    pauses_s: tuple[float, ...] = _PAUSES_S,
    timeout_s: float = _TIMEOUT_S,
) -> RepoListing:
    """The files of reference's repository at its revision; blocks. A busy hub is asked again a few times."""
    quiet_library()
    check_online()
    endpoint = endpoint or hub_endpoint()
    probe(endpoint)
    for pause_s in pauses_s:
        try:
            return _ask(reference, endpoint)
        except HubError as error:
            if error.code not in _WORTH_ANOTHER_TRY or error.retry_after_s > timeout_s:
                raise
            time.sleep(max(pause_s, error.retry_after_s))
    return _ask(reference, endpoint)


def _ask(reference: Reference, endpoint: str) -> RepoListing:
    from huggingface_hub import HfApi

    with explained(endpoint, reference.repo, reference.revision):
        info = HfApi(endpoint=endpoint).model_info(
            reference.repo, revision=reference.revision, files_metadata=True, timeout=_REQUEST_TIMEOUT_S
        )
        if info.disabled:
            raise disabled(reference.repo)
        return _listing(info)


def _listing(info: "ModelInfo") -> RepoListing:
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise ValueError("no commit")
    return RepoListing(
        commit=info.sha,
        files=tuple(_remote_file(entry) for entry in info.siblings or ()),
        task=text(info.pipeline_tag),
        license=license_of(info),
        gated=bool(info.gated),
        private=bool(info.private),
        downloads=count(info.downloads),
        likes=count(info.likes),
        updated_at=moment(info.last_modified),
        tags=tuple(info.tags or ()),
    )


def _remote_file(entry: "RepoSibling") -> RemoteFile:
    size_bytes, sha256, blob_sha1 = entry.size, None, entry.blob_id
    if entry.lfs is not None:
        size_bytes, sha256, blob_sha1 = entry.lfs.size, entry.lfs.sha256, None
        if not _SHA256.fullmatch(sha256):
            raise ValueError("no sha256")
    if not isinstance(size_bytes, int) or size_bytes < 0:
        raise ValueError("no size")
    known = blob_sha1 if isinstance(blob_sha1, str) and _SHA1.fullmatch(blob_sha1) else None
    return RemoteFile(path=entry.rfilename, size_bytes=size_bytes, sha256=sha256, blob_sha1=known)


def license_of(info: "ModelInfo") -> str | None:
    """The hub keeps it as a tag, whatever the card says."""
    licenses = (tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:"))
    return next(licenses, None)


def text(value: object) -> str | None:
    """A stranger's text, or nothing."""
    return value if isinstance(value, str) else None


def count(value: object) -> int | None:
    """A stranger's number, or nothing."""
    return value if isinstance(value, int) and value >= 0 else None


def moment(value: datetime | None) -> float | None:
    """Unix seconds."""
    return value.timestamp() if value else None
