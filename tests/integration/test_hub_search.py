"""Search for models on the hub."""

import asyncio

import pytest

from schemas.base import Format
from schemas.hub import HubSort, SearchHub
from schemas.models import Mode
from services.downloader.errors import HubError
from services.downloader.hub.repositories import search
from tests.hub import About, Hub

B = 10**9
LATER = "2026-09-01T00:00:00.000Z"

REPOSITORIES = (
    (
        "alpha/llama-GGUF",
        About(task="text-generation", downloads=50, likes=1, trending=2, n_params=8 * B),
    ),
    ("alpha/llama", About(tags=("safetensors",), task="text-generation", downloads=90, likes=9, trending=1)),
    ("beta/llama-embed", About(task="feature-extraction", downloads=5, updated=LATER)),
    (
        "beta/llama-similar",
        About(task="sentence-similarity", downloads=7, created=LATER),
    ),
    ("beta/other", About(task="text-ranking", downloads=1, n_params=B // 3)),
)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (SearchHub(words="llama"), "alpha/llama alpha/llama-GGUF beta/llama-similar beta/llama-embed"),
        (SearchHub(words="llama", limit=1), "alpha/llama"),
        (SearchHub(sort=HubSort.TRENDING, author="alpha"), "alpha/llama-GGUF alpha/llama"),
        (SearchHub(sort=HubSort.LIKES, author="alpha"), "alpha/llama alpha/llama-GGUF"),
        (SearchHub(sort=HubSort.UPDATED, author="beta", limit=1), "beta/llama-embed"),
        (SearchHub(sort=HubSort.CREATED, author="beta", limit=1), "beta/llama-similar"),
        (SearchHub(format=Format.SAFETENSORS), "alpha/llama"),
        (SearchHub(mode=Mode.EMBEDDING), "beta/llama-similar beta/llama-embed"),
        (SearchHub(mode=Mode.RERANK), "beta/other"),
        (SearchHub(task="text-generation", format=Format.GGUF), "alpha/llama-GGUF"),
        (SearchHub(max_params=B), "beta/other"),
        (SearchHub(min_params=B), "alpha/llama-GGUF"),
        (SearchHub(words="nothing like it"), ""),
    ],
)
async def test_a_search_filters_and_sorts(query: SearchHub, names: str) -> None:
    async with Hub() as hub:
        for name, about in REPOSITORIES:
            hub.add_repo(name, {}, about=about)
        models = await asyncio.to_thread(search, query, endpoint=hub.url)
    assert " ".join(model.repo for model in models) == names


async def test_a_failed_search_has_its_own_code() -> None:
    async with Hub() as hub:
        for status, code in ((429, "hub_rate_limited"), (500, "hub_error"), (401, "hub_token_refused")):
            hub.api_statuses = [status]
            with pytest.raises(HubError) as caught:
                await asyncio.to_thread(search, SearchHub(words="x"), endpoint=hub.url)
            assert caught.value.code == code
            assert caught.value.sentence.endswith(".")
