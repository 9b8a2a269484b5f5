"""Search for models on the hub."""

from collections.abc import Sequence
from datetime import datetime
from itertools import chain

from huggingface_hub import get_session, hf_raise_for_status
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but lazily loaded

from schemas.base import Format
from schemas.hub import HubModel, HubSort, SearchHub
from services.downloader.hub.access import reachable_endpoint
from services.downloader.hub.errors import translated_errors
from services.downloader.hub.metadata import TASKS, mode_of
from services.downloader.hub.repositories import count_or_none, license_of, text_or_none, unix_time

_SORTS = {
    HubSort.DOWNLOADS: ("downloads", "downloads"),
    HubSort.LIKES: ("likes", "likes"),
    HubSort.TRENDING: ("trendingScore", "trending_score"),
    HubSort.UPDATED: ("lastModified", "last_modified"),
    HubSort.CREATED: ("createdAt", "created_at"),
}
"""The hub's name of the order, and the field of `ModelInfo` to sort by."""
_REQUEST_TIMEOUT_S = 20.0
_FIELDS = (
    *("createdAt", "downloads", "gated", "gguf", "lastModified", "likes", "pipeline_tag", "private"),
    *("safetensors", "tags", "trendingScore"),
)


def search(query: SearchHub, *, endpoint: str | None = None) -> tuple[HubModel, ...]:
    """The models that match, best first, or HubError. Blocks."""
    endpoint = reachable_endpoint(endpoint)
    tasks: Sequence[str | None] = (query.task,)
    if query.mode is not None and query.task is None:
        tasks = TASKS[query.mode]
    with translated_errors(endpoint, "this search"):
        lists = [_request(query, task, endpoint) for task in tasks]
    # Each list is sorted; a merged one has to be sorted again. A model is listed under one task only.
    ranked = sorted(chain.from_iterable(lists), key=lambda pair: -pair[0]) if len(lists) > 1 else lists[0]
    return tuple(model for _, model in ranked[: query.limit])


def _request(query: SearchHub, task: str | None, endpoint: str) -> list[tuple[float, HubModel]]:
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
