"""Searching the hub by name."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING

from schemas.base import Format
from schemas.hub import HubModel, HubSort, SearchHub
from schemas.models import Mode
from services.downloader.hub.access import check_online, hub_endpoint, probe, quiet_library
from services.downloader.hub.listing import count, license_of, moment, text
from services.downloader.hub.refusals import explained

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

TASKS: Mapping[Mode, tuple[str, ...]] = {
    Mode.CHAT: ("text-generation", "image-text-to-text", "any-to-any"),
    Mode.COMPLETION: ("text-generation",),
    Mode.EMBEDDING: ("feature-extraction", "sentence-similarity"),
    Mode.RERANK: ("text-ranking",),
    Mode.TRANSCRIPTION: ("automatic-speech-recognition",),
}
"""The tasks that the hub lists models for each mode under."""
_MODES = {task: mode for mode in reversed(Mode) for task in TASKS[mode]}
_SORTS = {
    HubSort.DOWNLOADS: ("downloads", "downloads"),
    HubSort.LIKES: ("likes", "likes"),
    HubSort.TRENDING: ("trendingScore", "trending_score"),
    HubSort.UPDATED: ("lastModified", "last_modified"),
    HubSort.CREATED: ("createdAt", "created_at"),
}
"""What the hub calls it, and the field of its answer."""
_REQUEST_TIMEOUT_S = 20.0
_WANTED = (
    *("createdAt", "downloads", "gated", "gguf", "lastModified", "likes", "pipeline_tag", "private"),
    *("safetensors", "tags", "trendingScore"),
)


def search(asked: SearchHub, *, endpoint: str | None = None) -> tuple[HubModel, ...]:
    """What the hub finds, best first; blocks."""
    quiet_library()
    check_online()
    endpoint = endpoint or hub_endpoint()
    probe(endpoint)
    tasks: Sequence[str | None] = (asked.task,)
    if asked.mode is not None and asked.task is None:
        tasks = TASKS[asked.mode]
    with explained(endpoint, "this search"):
        lists = [_ask(asked, task, endpoint) for task in tasks]
    # Each list is sorted; together they must be, too. A model is listed under one task only.
    together = sorted(chain.from_iterable(lists), key=lambda found: -found[0]) if len(lists) > 1 else lists[0]
    return tuple(model for _, model in together[: asked.limit])


def mode_of(task: str | None) -> Mode | None:
    """What a task of the hub is here."""
    return _MODES.get(task or "")


def _ask(asked: SearchHub, task: str | None, endpoint: str) -> list[tuple[float, HubModel]]:
    """One request and no more: the library's own search would try for half a minute while somebody waits."""
    from huggingface_hub.hf_api import ModelInfo
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import get_session, hf_raise_for_status

    response = get_session().get(
        f"{endpoint.rstrip('/')}/api/models",
        params=_parameters(asked, task),
        headers=build_hf_headers(),
        timeout=_REQUEST_TIMEOUT_S,
    )
    hf_raise_for_status(response)
    found = [ModelInfo(**item) for item in response.json()]  # type: ignore[no-untyped-call]
    return [(_rank(info, asked.sort), _model(info)) for info in found]


def _parameters(asked: SearchHub, task: str | None) -> dict[str, str | int | list[str]]:
    given = {
        "search": asked.words.strip(),
        "author": asked.author,
        "filter": asked.format and str(asked.format),
        "pipeline_tag": task,
        "num_parameters": _sizes(asked),
        "sort": _SORTS[asked.sort][0],
        "limit": asked.limit,
        "expand": list(_WANTED),
    }
    return {name: value for name, value in given.items() if value}


def _sizes(asked: SearchHub) -> str | None:
    bounds = {"min": asked.min_params, "max": asked.max_params}
    return ",".join(f"{name}:{value}" for name, value in bounds.items() if value is not None) or None


def _rank(info: "ModelInfo", sort: HubSort) -> float:
    value = getattr(info, _SORTS[sort][1], None)
    return value.timestamp() if isinstance(value, datetime) else float(value or 0)


def _model(info: "ModelInfo") -> HubModel:
    tags = set(info.tags or ())
    task = text(info.pipeline_tag)
    return HubModel(
        repo=info.id,
        downloads=count(info.downloads),
        likes=count(info.likes),
        updated_at=moment(info.last_modified),
        created_at=moment(info.created_at),
        task=task,
        mode=mode_of(task),
        formats=tuple(each for each in Format if each.value in tags),
        license=license_of(info),
        gated=bool(info.gated),
        private=bool(info.private),
        n_params=_n_params(info),
    )


def _n_params(info: "ModelInfo") -> int | None:
    gguf = info.gguf if isinstance(info.gguf, dict) else {}
    return count(gguf.get("total")) or (count(info.safetensors.total) if info.safetensors else None)
