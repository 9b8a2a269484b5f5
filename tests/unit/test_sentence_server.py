"""The HTTP server of the sentence-transformers engine, with a stub in place of a model."""

import asyncio
import base64
import contextlib
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
from aiohttp import web

from schemas.errors import BadRequest
from schemas.models import Mode
from schemas.profiles import EmbeddingOptions
from services.supervisor.engines.sentence_transformers import SentenceServerOptions
from services.supervisor.engines.sentence_transformers.app import EmbeddingsEndpoint, RerankEndpoint, make_app
from services.supervisor.engines.sentence_transformers.model import EmbeddedText, Pair, ScoredPair, cut

Json = dict[str, Any]


class Encoder:
    """A vector begins with the length of the text, plus a hundred for a task. One token a word."""

    dimensions = 4
    tasks = ("query", "document")

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.started, self.go = threading.Event(), threading.Event()
        self.go.set()

    def embed(self, task: str | None, texts: Sequence[str]) -> list[EmbeddedText]:
        self.started.set()
        assert self.go.wait(10)
        self.embedded += texts
        more = 100 if task else 0
        return [
            EmbeddedText(
                vector=np.array([len(text) + more, 2, 0, 1], dtype=np.float32), tokens=len(text.split())
            )
            for text in texts
        ]


class Ranker:
    """Longer documents score higher."""

    def score(self, _kind: None, pairs: Sequence[Pair]) -> list[ScoredPair]:
        if any("break" in document for _, document in pairs):
            raise RuntimeError("out of memory")
        return [ScoredPair(score=len(document) / 10, tokens=2) for _, document in pairs]


def options(mode: Mode, **embedding: Any) -> SentenceServerOptions:
    return SentenceServerOptions(model="/m", name="org/m", mode=mode, embedding=EmbeddingOptions(**embedding))


@contextlib.asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def embeddings(encoder: Encoder | None = None, **embedding: Any) -> AsyncIterator[str]:
    given = options(Mode.EMBEDDING, **embedding)
    async with served(make_app(EmbeddingsEndpoint(encoder or Encoder(), given), given)) as url:
        yield url


@contextlib.asynccontextmanager
async def reranking() -> AsyncIterator[str]:
    given = options(Mode.RERANK)
    async with served(make_app(RerankEndpoint(Ranker(), given), given)) as url:
        yield url


async def post(url: str, body: object) -> tuple[int, Json]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return response.status, await response.json()


async def vectors(url: str, **body: object) -> list[Any]:
    status, answer = await post(f"{url}/v1/embeddings", body)
    assert status == 200, answer
    return [entry["embedding"] for entry in answer["data"]]


async def test_texts_become_vectors_with_a_token_count() -> None:
    async with embeddings(normalize=False) as url:
        status, answer = await post(f"{url}/v1/embeddings", {"model": "x", "input": ["one two", "three"]})
    assert status == 200
    assert answer == {
        "object": "list",
        "model": "org/m",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [7.0, 2.0, 0.0, 1.0]},
            {"object": "embedding", "index": 1, "embedding": [5.0, 2.0, 0.0, 1.0]},
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


async def test_base64_has_the_same_numbers() -> None:
    async with embeddings() as url:
        (numbers,) = await vectors(url, input="hello")
        (text,) = await vectors(url, input="hello", encoding_format="base64")
    assert list(struct.unpack("<4f", base64.b64decode(text))) == numbers


async def test_openais_client_decodes_both_encodings() -> None:
    async with embeddings(normalize=False) as url:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any")
        answer = await client.embeddings.create(model="m", input="hello")
        await client.close()
    assert answer.data[0].embedding == [5.0, 2.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("embedding", "body", "expected"),
    [
        ({}, {}, [4 / 21**0.5, 2 / 21**0.5, 0, 1 / 21**0.5]),
        ({"dimensions": 2}, {}, [4 / 20**0.5, 2 / 20**0.5]),
        ({"dimensions": 3, "normalize": False}, {"dimensions": 1}, [4]),
        ({"task": "query", "normalize": False}, {}, [104, 2, 0, 1]),
        ({"normalize": False}, {"task": "document"}, [104, 2, 0, 1]),
    ],
)
async def test_a_request_overrides_the_defaults_of_the_model(
    embedding: Json, body: Json, expected: list[float]
) -> None:
    async with embeddings(**embedding) as url:
        (vector,) = await vectors(url, input="four", **body)
    assert vector == pytest.approx(expected, rel=1e-6)


def test_a_zero_vector_is_not_normalized() -> None:
    assert cut(np.zeros(3, dtype=np.float32), None, normalize=True).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"input": [1, 2]}, "takes, which is text"),
        ({"input": []}, "between 1 and"),
        ({}, "input"),
        ({"input": "x", "encoding_format": "int8"}, "float or base64"),
        ({"input": "x", "dimensions": 5}, "between 1 and 4"),
        ({"input": "x", "dimensions": 0}, "between 1 and 4"),
        ({"input": "x", "task": "poem"}, "there are query, document"),
    ],
)
async def test_an_impossible_request_is_refused_in_a_sentence(body: Json, reason: str) -> None:
    async with embeddings() as url:
        status, answer = await post(f"{url}/v1/embeddings", body)
    assert status == 400
    assert reason in answer["error"]["message"]


def test_impossible_defaults_are_refused_at_the_start() -> None:
    for wrong in ({"dimensions": 5}, {"task": "poem"}):
        with pytest.raises(BadRequest):
            EmbeddingsEndpoint(Encoder(), options(Mode.EMBEDDING, **wrong))


async def test_documents_are_ranked_by_score() -> None:
    documents = ["four", {"text": "longest"}, "x"]
    async with reranking() as url:
        body = {"query": "q", "documents": documents, "top_n": 2, "return_documents": True}
        status, answer = await post(f"{url}/v1/rerank", body)
        _, bare = await post(f"{url}/v1/rerank", {"query": "q", "documents": ["x"]})
    assert status == 200
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.7, "document": {"text": "longest"}},
        {"index": 0, "relevance_score": 0.4, "document": {"text": "four"}},
    ]
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert bare["results"] == [{"index": 0, "relevance_score": 0.1}]


async def test_a_model_failure_is_an_error_and_the_next_request_succeeds() -> None:
    async with reranking() as url:
        status, answer = await post(f"{url}/v1/rerank", {"query": "q", "documents": ["break"]})
        after, _ = await post(f"{url}/v1/rerank", {"query": "q", "documents": ["x"]})
    assert (status, after) == (500, 200)
    assert "out of memory" in answer["error"]["message"]


async def test_health_models_and_missing_paths() -> None:
    async with embeddings() as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/health") as response:
            assert await response.json() == {"status": "ok"}
        async with session.get(f"{url}/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "org/m"
        status, answer = await post(f"{url}/v1/chat/completions", {})
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_a_request_of_a_disconnected_client_is_not_computed() -> None:
    encoder, given = Encoder(), options(Mode.EMBEDDING)
    entered: asyncio.Queue[None] = asyncio.Queue()
    cancelled = asyncio.Event()

    @web.middleware
    async def watch(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        entered.put_nowait(None)
        try:
            return await handler(request)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    app = make_app(EmbeddingsEndpoint(encoder, given), given)
    app.middlewares.append(watch)
    async with served(app) as url, asyncio.timeout(10):
        encoder.go.clear()
        first = asyncio.create_task(vectors(url, input="first"))
        await asyncio.to_thread(encoder.started.wait, 10)
        disconnected = asyncio.create_task(vectors(url, input="gone"))
        for _ in range(2):
            await entered.get()
        disconnected.cancel()
        await cancelled.wait()
        encoder.go.set()
        await first
        await vectors(url, input="last")
    assert encoder.embedded == ["first", "last"]
