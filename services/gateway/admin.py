"""Every command and bucket of the contract over HTTP, derived from it; and the queue of this gateway."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

import modelyard
from modelyard.bus.connection import Bus
from modelyard.bus.reads import read_bucket
from modelyard.bus.records import BucketCache
from modelyard.documents import check_fields
from modelyard.host.settings import Settings
from schemas import buckets, subjects
from schemas.audit import Actor
from schemas.base import Record, Role, check_token
from schemas.errors import BadRequest, BrokerUnavailable, InvalidJson, NotFound
from schemas.requests import Lane
from schemas.subject import Command
from services.gateway.http import KEY_ID, json_response
from services.gateway.inference.answer import AnswerReceiver
from services.gateway.inference.inference import Inference
from services.gateway.inference.queue import QueuePlace

TIMEOUT_S = 10.0
_COMMANDS = {command.name: command for command in subjects.COMMANDS if Role.GATEWAY in command.publish}
_BUCKETS = {bucket.name: bucket for bucket in buckets.ALL}


class AdminApi:
    """Handlers of `/api/…`. Buckets that are not in `caches` are read from the broker on request."""

    def __init__(self, bus: Bus, settings: Settings, caches: Mapping[str, BucketCache[Any]]) -> None:
        self._bus = bus
        self._settings = settings
        self._caches = caches

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/command/{noun}/{verb}", self.on_command),
            web.get("/api/state/{bucket}", self.on_state),
            web.get("/api/info", self.on_info),
            web.get("/api/health", self.on_health),
            web.get("/health", self.on_health),
        ]

    async def on_command(self, request: web.Request) -> web.Response:
        noun, verb = request.match_info["noun"], request.match_info["verb"]
        command = _COMMANDS.get(f"{noun}.{verb}")
        if command is None:
            raise NotFound(f"There is no command {noun}.{verb}; there are {', '.join(sorted(_COMMANDS))}.")
        payload, tokens = _decode(command, await request.read())
        # A client's own statement about itself is no proof: only what was checked here is passed on.
        by = Actor(role=Role.GATEWAY, key=request.get(KEY_ID), address=request.remote, node=self._bus.node)
        timeout_s = max(TIMEOUT_S, command.timeout_s)
        reply = await self._bus.call(command, payload, timeout_s=timeout_s, by=by, **tokens)
        return web.Response(body=command.encode_reply(reply), content_type="application/json")

    async def on_state(self, request: web.Request) -> web.Response:
        name = request.match_info["bucket"]
        if name not in _BUCKETS:
            raise NotFound(f"There is no such state; there are {', '.join(sorted(_BUCKETS))}.")
        cache = self._caches.get(name)
        return json_response(cache.values if cache else await read_bucket(self._bus, _BUCKETS[name]))

    async def on_info(self, _request: web.Request) -> web.Response:
        info = {"name": "modelyard", "version": modelyard.__version__, "node": self._settings.node}
        return json_response(info)

    async def on_health(self, _request: web.Request) -> web.Response:
        if not self._bus.connected:
            raise BrokerUnavailable("The broker cannot be reached now.")
        return json_response({"status": "ok"})


def _decode(command: Command[object, object], body: bytes) -> tuple[object, dict[str, str]]:
    """The payload, and the tokens of the subject, which over HTTP are fields like the others.

    On the wire unknown fields are ignored, since a peer may be newer. Here they are refused where the command
    changes something: a misspelt `dry_run` must not do it.
    """
    template = command.template
    try:
        payload = command.decode(body or b"{}")
        document = msgspec.json.decode(body or b"{}", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"This is not what {template} takes: {error}.") from error
    tokens = {name: _token(name, document.pop(name, None)) for name in command.tokens}
    if command.changes is not None:
        check_fields(command.payload, document, template)
    return payload, tokens


def _token(name: str, value: object) -> str:
    try:
        return check_token(value if isinstance(value, str) else "")
    except ValueError as error:
        raise BadRequest(f"The field {name!r} is missing, or no name.", param=name) from error


class QueuedRequest(Record):
    """A request that waits for a slot of its model."""

    request: str
    model: str
    lane: Lane
    path: str
    stream: bool
    key: str | None
    waited_s: float
    place: QueuePlace


class QueueApi:
    """Handlers of `/api/queue`: the requests of this gateway. With keys in use each cancels its own."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/queue", self.on_list), web.delete("/api/queue/{request}", self.on_cancel)]

    async def on_list(self, request: web.Request) -> web.Response:
        queued = [self._queued(answer) for answer in self._inference.queued(request.query.get("model"))]
        queued.sort(key=lambda entry: (entry.model, entry.place.position))
        return json_response({"waiting": queued})

    async def on_cancel(self, request: web.Request) -> web.Response:
        name = request.match_info["request"]
        if not self._inference.cancel(name, key=request.get(KEY_ID)):
            raise NotFound(f"No request {name} of yours waits or is answered here.")
        return json_response({"cancelled": name})

    def _queued(self, answer: AnswerReceiver) -> QueuedRequest:
        request = answer.request
        return QueuedRequest(
            request=request.id,
            model=answer.spec.name,
            lane=request.lane,
            path=request.path,
            stream=request.stream,
            key=request.key,
            waited_s=round(time.time() - answer.queued_at, 1),
            place=self._inference.place(answer),
        )
