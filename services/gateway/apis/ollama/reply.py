"""An answer in Ollama's words over HTTP: one object, or a line a chunk."""

from collections.abc import Callable

from aiohttp import web

from schemas.errors import YardError, from_error_body
from schemas.frames import AnswerHead
from services.gateway.apis.answering import cut
from services.gateway.apis.ollama.answers import Translation, error_body
from services.gateway.apis.sse import data_of
from services.gateway.inference.answer import Answer
from services.gateway.inference.ask import JSON, Ask
from services.gateway.inference.inference import Inference

LINES = "application/x-ndjson"


class Reply:
    """One HTTP response; it has begun once a byte of it is on its way.

    `whole` says a whole answer in Ollama's words, `lines` the chunks, for a client that wants lines.
    """

    def __init__(
        self,
        request: web.Request,
        inference: Inference,
        ask: Ask,
        whole: Callable[[bytes], bytes],
        lines: Translation | None = None,
    ) -> None:
        self._request = request
        self._inference = inference
        self._ask = ask
        self._whole = whole
        self._lines = lines
        self._begun: web.StreamResponse | None = None

    async def send(self) -> web.StreamResponse:
        """Ask and answer. An error before the first byte is an HTTP error, a later one the last line."""
        try:
            # Errors must pass through `ask`, which takes the request off its engine and records it.
            async with self._inference.ask(self._ask) as answer:
                answer.on_too_slow = cut(self._request)
                response = await self._answer(answer)
        except YardError as error:
            if self._begun is None:
                raise
            response = self._begun
            await response.write(error_body(error) + b"\n")
        if self._begun is not None:
            await response.write_eof()
        return response

    async def _answer(self, answer: Answer) -> web.StreamResponse:
        head = await answer.head()
        if self._lines is not None and self._ask.stream and head.status == 200:
            return await self._stream(answer, self._lines)
        body = b"".join([piece async for piece in answer.body()])
        return self._at_once(head, body)

    def _at_once(self, head: AnswerHead, body: bytes) -> web.Response:
        headers = {"X-Request-Id": self._ask.request}
        if head.status != 200:
            refused = error_body(from_error_body(body))
            return web.Response(body=refused, status=head.status, content_type=JSON, headers=headers)
        kind = JSON if self._lines is None else LINES
        return web.Response(body=self._whole(body), content_type=kind, headers=headers)

    async def _stream(self, answer: Answer, lines: Translation) -> web.StreamResponse:
        response = await self._begin()
        async for data in data_of(answer.body()):
            if line := lines.line(data):
                await response.write(line)
        await response.write(lines.last())
        return response

    async def _begin(self) -> web.StreamResponse:
        headers = {"X-Request-Id": self._ask.request, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self._begun = web.StreamResponse(headers=headers)
        self._begun.content_type = LINES
        await self._begun.prepare(self._request)
        return self._begun
