"""The HTTP side of the sentence-transformers engine, with a small encoder in the place of a model."""

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
from services.supervisor.engines.sentence_server import SentenceServerOptions
from services.supervisor.engines.sentence_server.app import EmbeddingsEndpoint, RerankEndpoint, make_app
from services.supervisor.engines.sentence_server.model import EmbeddedText, Pair, ScoredPair, cut

Json = dict[str, Any]


class Encoder:
    """A text is its number of letters, and so on; a task is worth a hundred more. One token a word."""

    dimensions = 4
    tasks = ("query", "document")

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()

    def embed(self, task: str | None, texts: Sequence[str]) -> list[EmbeddedText]:
        self.begun.set()
        assert self.go.wait(10)
        self.seen += texts
        more = 100 if task else 0
        return [
            EmbeddedText(
                vector=np.array([len(text) + more, 2, 0, 1], dtype=np.float32), tokens=len(text.split())
            )
            for text in texts
        ]


class Ranker:
    """The longer the better."""

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
    return [one["embedding"] for one in answer["data"]]


async def test_texts_become_vectors_with_their_tokens_counted() -> None:
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


async def test_base64_is_the_same_as_numbers() -> None:
    async with embeddings() as url:
        (numbers,) = await vectors(url, input="hello")
        (text,) = await vectors(url, input="hello", encoding_format="base64")
    assert list(struct.unpack("<4f", base64.b64decode(text))) == numbers


async def test_openais_library_reads_both() -> None:
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
async def test_a_model_is_used_as_its_owner_says_and_a_request_may_say_otherwise(
    embedding: Json, body: Json, expected: list[float]
) -> None:
    async with embeddings(**embedding) as url:
        (vector,) = await vectors(url, input="four", **body)
    assert vector == pytest.approx(expected, rel=1e-6)


def test_a_vector_of_nothing_stays_nothing() -> None:
    assert cut(np.zeros(3, dtype=np.float32), None, normalize=True).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("body", "word"),
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
async def test_what_the_model_cannot_do_is_a_sentence(body: Json, word: str) -> None:
    async with embeddings() as url:
        status, answer = await post(f"{url}/v1/embeddings", body)
    assert status == 400
    assert word in answer["error"]["message"]


def test_options_that_the_model_cannot_fulfil_are_refused_at_the_start() -> None:
    for wrong in ({"dimensions": 5}, {"task": "poem"}):
        with pytest.raises(BadRequest):
            EmbeddingsEndpoint(Encoder(), options(Mode.EMBEDDING, **wrong))


async def test_documents_come_back_best_first() -> None:
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


async def test_a_failing_model_is_an_error_and_the_next_request_is_served() -> None:
    async with reranking() as url:
        status, answer = await post(f"{url}/v1/rerank", {"query": "q", "documents": ["break"]})
        again, _ = await post(f"{url}/v1/rerank", {"query": "q", "documents": ["x"]})
    assert (status, again) == (500, 200)
    assert "out of memory" in answer["error"]["message"]


async def test_health_models_and_what_is_not_there() -> None:
    async with embeddings() as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/health") as response:
            assert await response.json() == {"status": "ok"}
        async with session.get(f"{url}/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "org/m"
        status, answer = await post(f"{url}/v1/chat/completions", {})
    assert (status, answer["error"]["code"]) == (404, "not_found")


async def test_what_a_client_no_longer_waits_for_is_not_computed() -> None:
    encoder, given = Encoder(), options(Mode.EMBEDDING)
    entered: asyncio.Queue[None] = asyncio.Queue()
    left = asyncio.Event()

    @web.middleware
    async def watch(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        entered.put_nowait(None)
        try:
            return await handler(request)
        except asyncio.CancelledError:
            left.set()
            raise

    app = make_app(EmbeddingsEndpoint(encoder, given), given)
    app.middlewares.append(watch)
    async with served(app) as url, asyncio.timeout(10):
        encoder.go.clear()
        first = asyncio.create_task(vectors(url, input="first"))
        await asyncio.to_thread(encoder.begun.wait, 10)
        gone = asyncio.create_task(vectors(url, input="gone"))
        for _ in range(2):
            await entered.get()
        gone.cancel()
        await left.wait()
        encoder.go.set()
        await first
        await vectors(url, input="last")
    assert encoder.seen == ["first", "last"]
