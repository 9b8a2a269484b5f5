"""The HTTP server: OpenAI's embeddings, and reranking as in llama.cpp and Jina."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from aiohttp import web

from modelyard.bus import logs
from schemas.base import Record
from schemas.errors import BadRequest, InternalError, NotFound, YardError
from services.supervisor.engines.sentence_transformers import SentenceServerOptions
from services.supervisor.engines.sentence_transformers.model import (
    Batcher,
    EmbeddedText,
    Encoder,
    Pair,
    Ranker,
    ScoredPair,
    cut,
    encode,
)

log = logs.get(__name__)

MAX_BODY_BYTES = 128 * 1024 * 1024
MAX_ITEMS = 100_000
Q = TypeVar("Q", bound=Record)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EmbeddingRequest(Record):
    """OpenAI's request, and `task`: the name of one of the model's prompts."""

    input: str | tuple[str, ...]
    encoding_format: str = "float"
    dimensions: int | None = None
    task: str | None = None


class _Document(Record):
    text: str


class RerankRequest(Record):
    """Documents are texts, or objects with a text."""

    query: str
    documents: tuple[str | _Document, ...]
    top_n: int | None = None
    return_documents: bool = False


class EmbeddingsEndpoint:
    def __init__(self, encoder: Encoder, options: SentenceServerOptions) -> None:
        self._encoder = encoder
        self._options = options
        self._defaults = options.embedding
        self._check(self._defaults.dimensions, self._defaults.task)
        self.batcher: Batcher[str | None, str, EmbeddedText] = Batcher(
            encoder.embed, self._defaults.batch_size
        )

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = _decode(await request.read(), EmbeddingRequest)
        texts = (body.input,) if isinstance(body.input, str) else body.input
        _check_count(texts, "input")
        if body.encoding_format not in ("float", "base64"):
            raise BadRequest("encoding_format must be float or base64.", param="encoding_format")
        self._check(body.dimensions, body.task)
        results = await self.batcher.run(body.task or self._defaults.task, texts)
        return _json(self._response_body(body, results))

    def _check(self, dimensions: int | None, task: str | None) -> None:
        limit, tasks = self._encoder.dimensions, self._encoder.tasks
        if dimensions is not None and not 1 <= dimensions <= limit:
            raise BadRequest(f"dimensions must be between 1 and {limit}.", param="dimensions")
        if task is not None and task not in tasks:
            known = f"there are {', '.join(tasks)}" if tasks else "it has none"
            raise BadRequest(f"The model has no task {task}: {known}.", param="task")

    def _response_body(self, body: EmbeddingRequest, results: list[EmbeddedText]) -> dict[str, object]:
        dimensions = body.dimensions or self._defaults.dimensions
        vectors = [cut(text.vector, dimensions, normalize=self._defaults.normalize) for text in results]
        data = [
            {"object": "embedding", "index": index, "embedding": encode(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = _usage(sum(result.tokens for result in results))
        return {"object": "list", "model": self._options.name, "data": data, "usage": usage}


class RerankEndpoint:
    def __init__(self, ranker: Ranker, options: SentenceServerOptions) -> None:
        self._options = options
        self.batcher: Batcher[None, Pair, ScoredPair] = Batcher(ranker.score, options.embedding.batch_size)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = _decode(await request.read(), RerankRequest)
        texts = [document if isinstance(document, str) else document.text for document in body.documents]
        _check_count(texts, "documents")
        if body.top_n is not None and body.top_n < 1:
            raise BadRequest("top_n must be at least 1.", param="top_n")
        results = await self.batcher.run(None, [(body.query, text) for text in texts])
        return _json(self._response_body(body, texts, results))

    def _response_body(
        self, body: RerankRequest, texts: list[str], results: list[ScoredPair]
    ) -> dict[str, object]:
        best = sorted(range(len(results)), key=lambda index: -results[index].score)[: body.top_n]
        ranked = [
            {"index": index, "relevance_score": results[index].score}
            | ({"document": {"text": texts[index]}} if body.return_documents else {})
            for index in best
        ]
        usage = _usage(sum(result.tokens for result in results))
        return {"object": "list", "model": self._options.name, "results": ranked, "usage": usage}


def make_app(
    endpoint: EmbeddingsEndpoint | RerankEndpoint, options: SentenceServerOptions
) -> web.Application:
    """The HTTP application of one model; `endpoint` serves the path of its mode."""
    app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY_BYTES)
    path = "/v1/embeddings" if isinstance(endpoint, EmbeddingsEndpoint) else "/v1/rerank"
    app.router.add_post(path, endpoint.serve)
    app.router.add_get("/health", _health)
    models = {"object": "list", "data": [{"id": options.name, "object": "model"}]}

    async def list_models(_request: web.Request) -> web.Response:
        return _json(models)

    async def close(_app: web.Application) -> None:
        await endpoint.batcher.close()

    app.router.add_get("/v1/models", list_models)
    app.on_cleanup.append(close)
    return app


async def _health(_request: web.Request) -> web.Response:
    return _json({"status": "ok"})


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except YardError as error:
        return _error_response(error)
    except web.HTTPRequestEntityTooLarge:
        return _error_response(BadRequest(f"The body is larger than {MAX_BODY_BYTES} bytes."))
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _error_response(NotFound(f"This model does not serve {request.method} {request.path}."))
    except Exception as error:
        log.exception("request_failed", path=request.path)
        return _error_response(InternalError(f"The model failed: {type(error).__name__}: {error}"))


def _error_response(error: YardError) -> web.Response:
    return web.Response(body=error.encode(), status=error.status, content_type="application/json")


def _json(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def _decode(body: bytes, kind: type[Q]) -> Q:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not what this path takes, which is text: {error}.") from error


def _check_count(items: Sequence[object], param: str) -> None:
    if not 1 <= len(items) <= MAX_ITEMS:
        raise BadRequest(f"{param} must have between 1 and {MAX_ITEMS} texts.", param=param)


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
