"""Repositories on the hub: search, and the files of one at one commit with its metadata."""

import re
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import chain

from huggingface_hub import HfApi, get_session, hf_raise_for_status
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but lazily loaded

from schemas.base import Format
from schemas.hub import HubModel, HubSort, SearchHub
from services.downloader.errors import HubError
from services.downloader.hub.access import disabled, reachable_endpoint, translated_errors
from services.downloader.reference import Reference
from services.downloader.selection.files import TASKS, RemoteFile, RepoListing, mode_of
from services.downloader.transfer.disk import is_sha256

_REQUEST_TIMEOUT_S = 20.0
_PAUSES_S = (1.0, 3.0)
_MAX_RETRY_AFTER_S = 300.0
_SHA1 = re.compile(r"[0-9a-f]{40}")
_RETRYABLE = frozenset({"hub_error", "hub_unreachable", "hub_rate_limited"})
_SORTS = {
    HubSort.DOWNLOADS: ("downloads", "downloads"),
    HubSort.LIKES: ("likes", "likes"),
    HubSort.TRENDING: ("trendingScore", "trending_score"),
    HubSort.UPDATED: ("lastModified", "last_modified"),
    HubSort.CREATED: ("createdAt", "created_at"),
}
"""The hub's name of the order, and the field of `ModelInfo` to sort by."""
_FIELDS = (
    *("createdAt", "downloads", "gated", "gguf", "lastModified", "likes", "pipeline_tag", "private"),
    *("safetensors", "tags", "trendingScore"),
)


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
            return _list_repo(reference, endpoint)
        except HubError as error:
            if error.code not in _RETRYABLE or error.retry_after_s > max_retry_after_s:
                raise
            time.sleep(max(pause_s, error.retry_after_s))
    return _list_repo(reference, endpoint)


def _list_repo(reference: Reference, endpoint: str) -> RepoListing:
    with translated_errors(endpoint, reference.repo, reference.revision):
        info = HfApi(endpoint=endpoint).model_info(
            reference.repo, revision=reference.revision, files_metadata=True, timeout=_REQUEST_TIMEOUT_S
        )
        if info.disabled:
            raise disabled(reference.repo)
        return _listing(info)


def _listing(info: ModelInfo) -> RepoListing:
    if not info.sha or not _SHA1.fullmatch(info.sha):
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
        if not is_sha256(sha256):
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
    """The license among the tags, which the hub sets even where the model card differs."""
    return next((tag[len("license:") :] for tag in info.tags or () if tag.startswith("license:")), None)


def text_or_none(value: object) -> str | None:
    """An unchecked value of the hub, None unless it is text."""
    return value if isinstance(value, str) else None


def count_or_none(value: object) -> int | None:
    """An unchecked value of the hub, None unless it is a count."""
    return value if isinstance(value, int) and value >= 0 else None


def unix_time(value: datetime | None) -> float | None:
    return value.timestamp() if value else None


def search(query: SearchHub, *, endpoint: str | None = None) -> tuple[HubModel, ...]:
    """The models that match, best first, or HubError. Blocks."""
    endpoint = reachable_endpoint(endpoint)
    tasks: Sequence[str | None] = (query.task,)
    if query.mode is not None and query.task is None:
        tasks = TASKS[query.mode]
    with translated_errors(endpoint, "this search"):
        lists = [_search(query, task, endpoint) for task in tasks]
    # Each list is sorted; a merged one has to be sorted again. A model is listed under one task only.
    ranked = sorted(chain.from_iterable(lists), key=lambda pair: -pair[0]) if len(lists) > 1 else lists[0]
    return tuple(model for _, model in ranked[: query.limit])


def _search(query: SearchHub, task: str | None, endpoint: str) -> list[tuple[float, HubModel]]:
    """One request: `HfApi.list_models` would retry for half a minute while a user waits."""
    response = get_session().get(
        f"{endpoint.rstrip('/')}/api/models",
        params=_parameters(query, task),
        headers=build_hf_headers(),
        timeout=_REQUEST_TIMEOUT_S,
    )
    hf_raise_for_status(response)
    infos = [ModelInfo(**item) for item in response.json()]  # type: ignore[no-untyped-call]
    return [(_rank(info, query.sort), _model(info)) for info in infos]


def _parameters(query: SearchHub, task: str | None) -> dict[str, str | int | list[str]]:
    parameters = {
        "search": query.words.strip(),
        "author": query.author,
        "filter": query.format and str(query.format),
        "pipeline_tag": task,
        "num_parameters": _sizes(query),
        "sort": _SORTS[query.sort][0],
        "limit": query.limit,
        "expand": list(_FIELDS),
    }
    return {name: value for name, value in parameters.items() if value}


def _sizes(query: SearchHub) -> str | None:
    bounds = {"min": query.min_params, "max": query.max_params}
    return ",".join(f"{name}:{value}" for name, value in bounds.items() if value is not None) or None


def _rank(info: ModelInfo, sort: HubSort) -> float:
    value = getattr(info, _SORTS[sort][1], None)
    return value.timestamp() if isinstance(value, datetime) else float(value or 0)


def _model(info: ModelInfo) -> HubModel:
    tags = set(info.tags or ())
    task = text_or_none(info.pipeline_tag)
    return HubModel(
        repo=info.id,
        downloads=count_or_none(info.downloads),
        likes=count_or_none(info.likes),
        updated_at=unix_time(info.last_modified),
        created_at=unix_time(info.created_at),
        task=task,
        mode=mode_of(task),
        formats=tuple(format_ for format_ in Format if format_.value in tags),
        license=license_of(info),
        gated=bool(info.gated),
        private=bool(info.private),
        n_params=_n_params(info),
    )


def _n_params(info: ModelInfo) -> int | None:
    gguf = info.gguf if isinstance(info.gguf, dict) else {}
    return count_or_none(gguf.get("total")) or (
        count_or_none(info.safetensors.total) if info.safetensors else None
    )
