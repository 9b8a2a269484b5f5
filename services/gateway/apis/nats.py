"""The OpenAI API over NATS: the same JSON, the answer in several replies, an empty one last."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from http import HTTPStatus

from nats.aio.msg import Msg

from modelyard.bus import logs
from modelyard.bus.connection import Bus
from modelyard.bus.micro import Commands, Request
from schemas import subjects
from schemas.base import check_token, new_id
from schemas.errors import BadRequest, from_error_body
from schemas.requests import ENDPOINTS, REQUEST_HEADER, Endpoint
from services.gateway.apis.reply import comment, has_comments, places_until_head
from services.gateway.inference.inference import Inference
from services.gateway.inference.request import InferRequest, read_fields

log = logs.get(__name__)

SendPiece = Callable[[bytes], Awaitable[None]]


class NatsApi:
    """Handlers of `yard.command.openai.…`."""

    def __init__(self, bus: Bus, inference: Inference) -> None:
        self._inference = inference
        self._inboxes = ReplyInboxes(bus)

    async def open(self, commands: Commands) -> None:
        await self._inboxes.open()
        for endpoint in ENDPOINTS:
            handler = partial(self._on_request, endpoint)
            await commands.add_raw(subjects.OPENAI, handler, endpoint=endpoint.name)

    async def _on_request(self, endpoint: Endpoint, message: Request) -> None:
        fields = read_fields(message.data, endpoint.path)
        request = InferRequest(
            path=endpoint.path,
            body=message.data,
            model=fields.model,
            stream=bool(fields.stream),
            traceparent=message.headers.get("traceparent"),
            id=_request_id(message.headers.get(REQUEST_HEADER)),
        )
        async with self._inboxes.send_to(message.reply) as send, self._inference.submit(request) as answer:
            if has_comments(request):
                async for place in places_until_head(self._inference, answer):
                    await send(comment(place))
            head = await answer.head()
            if head.status != HTTPStatus.OK:
                raise from_error_body(await answer.read_all())
            async for piece in answer.body():
                await send(piece)
            await send(b"")


def _request_id(chosen: str | None) -> str:
    try:
        return check_token(chosen) if chosen else new_id()
    except ValueError as error:
        raise BadRequest(f"{REQUEST_HEADER}: {error}.") from error


class ReplyInboxes:
    """Inboxes that answers go to. The broker reports every piece without a subscriber."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._reports = bus.nc.new_inbox()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._disconnected: set[str] = set()

    async def open(self) -> None:
        await self._bus.nc.subscribe(f"{self._reports}.*", cb=self._on_no_responders)

    @contextlib.asynccontextmanager
    async def send_to(self, inbox: str) -> AsyncIterator[SendPiece]:
        """The block is cancelled once `inbox` has no subscriber; it ends there, without an error."""
        token, task = new_id(), asyncio.current_task()
        assert task is not None

        async def send(piece: bytes) -> None:
            await self._bus.nc.publish(inbox, piece, reply=f"{self._reports}.{token}")

        self._tasks[token] = task
        try:
            yield send
        except asyncio.CancelledError:
            if token not in self._disconnected or task.uncancel() > 0:
                raise
            log.info("client_disconnected", inbox=inbox)
        finally:
            del self._tasks[token]
            self._disconnected.discard(token)

    async def _on_no_responders(self, msg: Msg) -> None:
        token = msg.subject.rpartition(".")[2]
        if (task := self._tasks.get(token)) is not None and token not in self._disconnected:
            self._disconnected.add(token)
            task.cancel()
