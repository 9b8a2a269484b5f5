"""The OpenAI API over NATS: the same JSON, the answer in several replies, an empty one last."""

from nats.micro.request import Request

from schemas.grammar import check_token, new_id
from services.gateway.inference import Ask, Inference
from services.gateway.openai import CHAT

REQUEST_HEADER = "Yard-Request"
"""An id that the caller chose, so that he can cancel."""


class NatsOpenAI:
    """Handlers of `yard.command.openai.…`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def on_chat(self, request: Request) -> None:
        headers = request.headers or {}
        chosen = headers.get(REQUEST_HEADER)
        ask = Ask(
            path=CHAT,
            body=request.data,
            traceparent=headers.get("traceparent"),
            request=check_token(chosen) if chosen else new_id(),
        )
        async with self._inference.ask(ask) as (answer, _):
            await answer.head()
            async for piece in answer.body():
                await request.respond(piece)
        await request.respond(b"")
