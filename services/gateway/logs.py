"""`/api/logs`: a search in all logs; `/api/logs/NAME`: the newest lines of one model or instance."""

import collections
import time

from aiohttp import web

from modelyard.bus.connection import Bus
from modelyard.client.logs import instance_lines, search
from schemas.errors import BadRequest
from schemas.logs import LogLevel, LogOrder, LogQuery
from services.gateway.http import json_response

SINCE_S = 600.0
LIMIT = 1000
SEARCH_LIMIT = 200


class LogsApi:
    """Handlers of `/api/logs`. To follow logs there is `/ws`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/logs", self.on_search), web.get("/api/logs/{name:.+}", self.on_logs)]

    async def on_search(self, request: web.Request) -> web.Response:
        """One page of the matching lines; `cursor` continues behind another page."""
        parameters = request.query
        query = LogQuery(
            text=parameters.get("grep"),
            model=parameters.get("model"),
            node=parameters.get("node"),
            instance=parameters.get("instance"),
            service=parameters.get("service"),
            level=_level(parameters["level"]) if "level" in parameters else None,
            since=_number(request, "since", 0) if "since" in parameters else None,
            until=_number(request, "until", 0) if "until" in parameters else None,
        )
        limit = int(_number(request, "limit", SEARCH_LIMIT))
        order, cursor = _order(parameters.get("order")), parameters.get("cursor")
        page = await search(self._bus, query, order=order, limit=limit, cursor=cursor)
        return json_response(page)

    async def on_logs(self, request: web.Request) -> web.Response:
        """The newest `limit` lines of the last `since_s` seconds that contain `grep`, oldest first."""
        since = time.time() - _number(request, "since_s", SINCE_S)
        newest = collections.deque[object](maxlen=int(_number(request, "limit", LIMIT)))
        name, grep = request.match_info["name"], request.query.get("grep")
        lines = instance_lines(self._bus, name, since=since, grep=grep, follow=False)
        async for line in lines:
            newest.append(line)
        return json_response({"lines": list(newest)})


def _number(request: web.Request, name: str, default: float) -> float:
    try:
        value = float(request.query.get(name, default))
    except ValueError:
        value = -1.0
    if not 0 < value <= 1e11:
        raise BadRequest(f"{name} must be a number above 0.", param=name)
    return value


def _level(name: str) -> LogLevel:
    try:
        return LogLevel[name.upper()]
    except KeyError:
        raise BadRequest("level is debug, info, warning or error.", param="level") from None


def _order(name: str | None) -> LogOrder:
    try:
        return LogOrder(name or LogOrder.NEWEST)
    except ValueError:
        raise BadRequest("order is newest or oldest.", param="order") from None
