"""The HTTP side: OpenAI's embeddings, and reranking as llama.cpp and others have it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from aiohttp import web

from modelyard.bus import logs
from schemas.base import Record
from schemas.errors import BadRequest, InternalError, NotFound, YardError
from services.supervisor.engines.sentence_server.batches import Batches
from services.supervisor.engines.sentence_server.model import Embedded, Encoder, Pair, Ranker, Scored
from services.supervisor.engines.sentence_server.options import Options
from services.supervisor.engines.sentence_server.vectors import encoded, shaped

log = logs.get(__name__)

MAX_BODY_BYTES = 128 * 1024 * 1024
MAX_ITEMS = 100_000
Q = TypeVar("Q", bound=Record)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EmbeddingRequest(Record):
    """OpenAI's, and `task`: the name of one of the model's prompts."""

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


class Embeddings:
    """`/v1/embeddings` of one model."""

    def __init__(self, encoder: Encoder, options: Options) -> None:
        self._encoder = encoder
        self._options = options
        self._given = options.embedding
        self._check(self._given.dimensions, self._given.task)
        self.batches: Batches[str | None, str, Embedded] = Batches(encoder.embed, self._given.batch_size)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        wanted = _decoded(await request.read(), EmbeddingRequest)
        texts = (wanted.input,) if isinstance(wanted.input, str) else wanted.input
        _check_count(texts, "input")
        if wanted.encoding_format not in ("float", "base64"):
            raise BadRequest("encoding_format must be float or base64.", param="encoding_format")
        self._check(wanted.dimensions, wanted.task)
        results = await self.batches.run(wanted.task or self._given.task, texts)
        return _json(self._answer(wanted, results))

    def _check(self, dimensions: int | None, task: str | None) -> None:
        most, tasks = self._encoder.dimensions, self._encoder.tasks
        if dimensions is not None and not 1 <= dimensions <= most:
            raise BadRequest(f"dimensions must be between 1 and {most}.", param="dimensions")
        if task is not None and task not in tasks:
            known = f"there are {', '.join(tasks)}" if tasks else "it has none"
            raise BadRequest(f"The model has no task {task}: {known}.", param="task")

    def _answer(self, wanted: EmbeddingRequest, results: list[Embedded]) -> dict[str, object]:
        dimensions = wanted.dimensions or self._given.dimensions
        vectors = [shaped(one.vector, dimensions, normalize=self._given.normalize) for one in results]
        data = [
            {"object": "embedding", "index": index, "embedding": encoded(vector, wanted.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = _usage(sum(one.tokens for one in results))
        return {"object": "list", "model": self._options.name, "data": data, "usage": usage}


class Reranking:
    """`/v1/rerank` of one model."""

    def __init__(self, ranker: Ranker, options: Options) -> None:
        self._options = options
        self.batches: Batches[None, Pair, Scored] = Batches(ranker.score, options.embedding.batch_size)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        wanted = _decoded(await request.read(), RerankRequest)
        texts = [one if isinstance(one, str) else one.text for one in wanted.documents]
        _check_count(texts, "documents")
        if wanted.top_n is not None and wanted.top_n < 1:
            raise BadRequest("top_n must be at least 1.", param="top_n")
        results = await self.batches.run(None, [(wanted.query, text) for text in texts])
        return _json(self._answer(wanted, texts, results))

    def _answer(self, wanted: RerankRequest, texts: list[str], results: list[Scored]) -> dict[str, object]:
        best = sorted(range(len(results)), key=lambda index: -results[index].score)[: wanted.top_n]
        shown = [
            {"index": index, "relevance_score": results[index].score}
            | ({"document": {"text": texts[index]}} if wanted.return_documents else {})
            for index in best
        ]
        usage = _usage(sum(one.tokens for one in results))
        return {"object": "list", "model": self._options.name, "results": shown, "usage": usage}


def make_app(endpoint: Embeddings | Reranking, options: Options) -> web.Application:
    """The server of one model; `endpoint` serves the only path of its mode."""
    app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY_BYTES)
    path = "/v1/embeddings" if isinstance(endpoint, Embeddings) else "/v1/rerank"
    app.router.add_post(path, endpoint.serve)
    app.router.add_get("/health", _healthy)
    models = {"object": "list", "data": [{"id": options.name, "object": "model"}]}

    async def list_models(_request: web.Request) -> web.Response:
        return _json(models)

    async def close(_app: web.Application) -> None:
        await endpoint.batches.close()

    app.router.add_get("/v1/models", list_models)
    app.on_cleanup.append(close)
    return app


async def _healthy(_request: web.Request) -> web.Response:
    return _json({"status": "ok"})


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error in the one shape."""
    try:
        return await handler(request)
    except YardError as error:
        return _refused(error)
    except web.HTTPRequestEntityTooLarge:
        return _refused(BadRequest(f"The body is larger than {MAX_BODY_BYTES} bytes."))
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return _refused(NotFound(f"This model does not serve {request.method} {request.path}."))
    except Exception as error:
        log.exception("request_failed", path=request.path)
        return _refused(InternalError(f"The model failed: {type(error).__name__}: {error}"))


def _refused(error: YardError) -> web.Response:
    return web.Response(body=error.encode(), status=error.status, content_type="application/json")


def _json(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def _decoded(body: bytes, kind: type[Q]) -> Q:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequest(f"The body is not what this path takes, which is text: {error}.") from error


def _check_count(items: Sequence[object], param: str) -> None:
    if not 1 <= len(items) <= MAX_ITEMS:
        raise BadRequest(f"{param} must have between 1 and {MAX_ITEMS} texts.", param=param)


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}
