"""Every command and every bucket of the contract over HTTP, derived from it."""

import msgspec
from aiohttp import web

import modelyard
from modelyard.bus.connection import Bus
from modelyard.bus.records import BucketCache
from modelyard.documents import check_fields
from modelyard.host.settings import Settings
from schemas import subjects
from schemas.audit import Actor
from schemas.base import Role, check_token
from schemas.errors import BadRequest, BrokerUnavailable, InvalidJson, NotFound
from schemas.subject import Command
from services.gateway.middleware import KEY_ID

TIMEOUT_S = 10.0
_BY_NAME = {command.name: command for command in subjects.COMMANDS if Role.GATEWAY in command.publish}


class Admin:
    """Handlers of `/api/…`."""

    def __init__(self, bus: Bus, settings: Settings, mirrors: dict[str, BucketCache[object]]) -> None:
        self._bus = bus
        self._settings = settings
        self._mirrors = mirrors

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
        command = _BY_NAME.get(f"{noun}.{verb}")
        if command is None:
            raise NotFound(f"There is no command {noun}.{verb}; there are {', '.join(sorted(_BY_NAME))}.")
        payload, tokens = _decode(command, await request.read())
        # What a client says of itself is no proof: only what was checked here goes along.
        by = Actor(role=Role.GATEWAY, key=request.get(KEY_ID), address=request.remote, node=self._bus.node)
        timeout_s = max(TIMEOUT_S, command.timeout_s)
        reply = await self._bus.call(command, payload, timeout_s=timeout_s, by=by, **tokens)
        return web.Response(body=command.encode_reply(reply), content_type="application/json")

    async def on_state(self, request: web.Request) -> web.Response:
        mirror = self._mirrors.get(request.match_info["bucket"])
        if mirror is None:
            raise NotFound(f"There is no such state; there are {', '.join(sorted(self._mirrors))}.")
        return web.Response(body=msgspec.json.encode(mirror.values), content_type="application/json")

    async def on_info(self, _request: web.Request) -> web.Response:
        info = {"name": "modelyard", "version": modelyard.__version__, "node": self._settings.node}
        return web.Response(body=msgspec.json.encode(info), content_type="application/json")

    async def on_health(self, _request: web.Request) -> web.Response:
        if not self._bus.connected:
            raise BrokerUnavailable("The broker cannot be reached now.")
        return web.Response(body=b'{"status":"ok"}', content_type="application/json")


def _decode(command: Command[object, object], body: bytes) -> tuple[object, dict[str, str]]:
    """What is asked, and the tokens of the subject: over HTTP they are fields like the others.

    Unlike on the wire, where a newer side may say more, a field that does not exist is refused where
    something is changed: a misspelt `dry_run` must not do it.
    """
    said = command.template
    try:
        payload, document = command.decode(body or b"{}"), _object(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"This is not what {said} takes: {error}.") from error
    tokens = {name: _token(name, document.pop(name, None)) for name in command.tokens}
    if command.changes is not None:
        check_fields(command.payload, document, said)
    return payload, tokens


def _object(body: bytes) -> dict[str, object]:
    return msgspec.json.decode(body, type=dict[str, object])


def _token(name: str, value: object) -> str:
    try:
        return check_token(value if isinstance(value, str) else "")
    except ValueError as error:
        raise BadRequest(f"The field {name!r} is missing, or no name.", param=name) from error
