"""From a request in Ollama's words to one answer: read, asked under the model's own name, replied to."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from schemas.errors import InvalidJson
from services.gateway.apis.ollama.answers import Translation
from services.gateway.apis.ollama.listing import Listing
from services.gateway.apis.ollama.reply import Reply
from services.gateway.inference.ask import Ask
from services.gateway.inference.inference import Inference
from services.gateway.middleware import KEY_ID

T = TypeVar("T")
_LEAST = "/tokenize"
"""What any model can answer; it is there, or was started, when that is answered."""


class Asking:
    """Asks our own paths for Ollama's clients."""

    def __init__(self, inference: Inference, listing: Listing) -> None:
        self._inference = inference
        self._listing = listing

    async def send(
        self,
        request: web.Request,
        path: str,
        body: Mapping[str, object],
        whole: Callable[[bytes], bytes],
        lines: Translation | None = None,
    ) -> web.StreamResponse:
        """Ask and reply; see `Reply` for `whole` and `lines`."""
        model = self._listing.known_name(str(body["model"]))
        ask = Ask(
            path=path,
            body=msgspec.json.encode({**body, "model": model}),
            model=model,
            stream=bool(body.get("stream")),
            key=request.get(KEY_ID),
            traceparent=request.headers.get("traceparent"),
        )
        return await Reply(request, self._inference, ask, whole, lines).send()

    async def load(self, request: web.Request, model: str, said: bytes) -> web.StreamResponse:
        """Have the model started, and say so when it is there."""
        return await self.send(request, _LEAST, {"model": model, "content": ""}, lambda _body: said)


async def read(request: web.Request, kind: type[T]) -> T:
    """A body of this kind; InvalidJson says where it is not."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not what {request.path} takes: {error}.") from error
