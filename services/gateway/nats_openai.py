"""The OpenAI API over NATS: the same JSON, the answer in several replies, an empty one last."""

from http import HTTPStatus

import msgspec
from nats.micro.request import Request

from schemas.errors import BadRequest, ErrorBody, InternalError, YardError, from_body
from schemas.grammar import check_token, new_id
from schemas.requests import REQUEST_HEADER
from services.gateway.inference import Ask, Inference
from services.gateway.openai import CHAT


class NatsOpenAI:
    """Handlers of `yard.command.openai.…`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def on_chat(self, request: Request) -> None:
        headers = request.headers or {}
        ask = Ask(
            path=CHAT,
            body=request.data,
            traceparent=headers.get("traceparent"),
            request=_chosen_id(headers.get(REQUEST_HEADER)),
        )
        async with self._inference.ask(ask) as (answer, _):
            head = await answer.head()
            if head.status != HTTPStatus.OK:
                raise _refusal(b"".join([piece async for piece in answer.body()]))
            async for piece in answer.body():
                await request.respond(piece)
        await request.respond(b"")


def _chosen_id(chosen: str | None) -> str:
    try:
        return check_token(chosen) if chosen else new_id()
    except ValueError as error:
        raise BadRequest(f"{REQUEST_HEADER}: {error}.") from error


def _refusal(body: bytes) -> YardError:
    """What the engine said, which over HTTP would have been the body of a 4xx or 5xx."""
    refused = from_body(msgspec.json.decode(body, type=ErrorBody))
    return refused if type(refused) is not InternalError else BadRequest(refused.message)
