"""The same APIs over NATS: the same JSON, the answer in several replies, an empty one last."""

from functools import partial
from http import HTTPStatus

from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands, Request
from schemas import subjects
from schemas.base import check_token, new_id
from schemas.endpoints import ENDPOINTS, Endpoint
from schemas.errors import BadRequest, from_error_body
from schemas.requests import REQUEST_HEADER
from services.gateway.apis.answering import comment, waiting
from services.gateway.apis.listeners import Listeners
from services.gateway.inference.ask import Ask, read_asked
from services.gateway.inference.inference import Inference


class OverNats:
    """Handlers of `yard.command.openai.…`."""

    def __init__(self, bus: Bus, inference: Inference) -> None:
        self._inference = inference
        self._listeners = Listeners(bus)

    async def open(self, commands: Commands) -> None:
        """Serve every endpoint under its name."""
        await self._listeners.open()
        for endpoint in ENDPOINTS:
            handler = partial(self._on_request, endpoint)
            await commands.add_raw(subjects.OPENAI, handler, endpoint=endpoint.name)

    async def _on_request(self, endpoint: Endpoint, request: Request) -> None:
        headers = request.headers or {}
        asked = read_asked(request.data, endpoint.path)
        ask = Ask(
            path=endpoint.path,
            body=request.data,
            model=asked.model,
            stream=bool(asked.stream),
            traceparent=headers.get("traceparent"),
            request=_chosen_id(headers.get(REQUEST_HEADER)),
        )
        async with self._listeners.listening(request.reply) as say, self._inference.ask(ask) as answer:
            async for place in waiting(self._inference, answer):
                await say(comment(place))
            head = await answer.head()
            if head.status != HTTPStatus.OK:
                raise from_error_body(b"".join([piece async for piece in answer.body()]))
            async for piece in answer.body():
                await say(piece)
            await say(b"")


def _chosen_id(chosen: str | None) -> str:
    try:
        return check_token(chosen) if chosen else new_id()
    except ValueError as error:
        raise BadRequest(f"{REQUEST_HEADER}: {error}.") from error
