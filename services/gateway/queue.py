"""`/api/queue`: who waits, where and for how long; and taking a request out of it."""

import time

import msgspec
from aiohttp import web

from schemas.base import Record
from schemas.errors import NotFound
from schemas.requests import Lane
from services.gateway.inference.answer import Answer
from services.gateway.inference.inference import Inference
from services.gateway.inference.waiting import Place
from services.gateway.middleware import KEY_ID


class Waiting(Record):
    """A request that waits for a slot of its model."""

    request: str
    model: str
    lane: Lane
    path: str
    stream: bool
    key: str | None
    waited_s: float
    place: Place


class Queue:
    """Handlers of `/api/queue`. It shows the requests that came through this gateway; with keys in use
    each cancels its own."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/queue", self.on_list),
            web.delete("/api/queue/{request}", self.on_cancel),
        ]

    async def on_list(self, request: web.Request) -> web.Response:
        waiting = [self._waiting(answer) for answer in self._inference.waiting(request.query.get("model"))]
        waiting.sort(key=lambda one: (one.model, one.place.position))
        return web.Response(body=msgspec.json.encode({"waiting": waiting}), content_type="application/json")

    async def on_cancel(self, request: web.Request) -> web.Response:
        name = request.match_info["request"]
        if not self._inference.cancel(name, key=request.get(KEY_ID)):
            raise NotFound(f"No request {name} of yours waits or is answered here.")
        return web.Response(body=msgspec.json.encode({"cancelled": name}), content_type="application/json")

    def _waiting(self, answer: Answer) -> Waiting:
        ask = answer.ask
        return Waiting(
            request=ask.request,
            model=answer.spec.name,
            lane=ask.lane,
            path=ask.path,
            stream=ask.stream,
            key=ask.key,
            waited_s=round(time.time() - answer.queued_at, 1),
            place=self._inference.place(answer),
        )
