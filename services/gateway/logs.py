"""`/api/logs`: a search over what was printed and logged; `/api/logs/NAME`: one model's or instance's."""

import collections
import time

import msgspec
from aiohttp import web

from modelyard.bus.connection import Bus
from modelyard.client.logs import instance_lines, search
from schemas.errors import BadRequest
from schemas.logs import LogLevel, LogOrder, LogQuery

SINCE_S = 600.0
LIMIT = 1000
SEARCH_LIMIT = 200


class Logs:
    """The handler of `/api/logs`. `/ws` is there for those who follow."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/logs", self.on_search), web.get("/api/logs/{name:.+}", self.on_logs)]

    async def on_search(self, request: web.Request) -> web.Response:
        """One page of the lines that match; `cursor` goes on where another page ended."""
        asked = request.query
        query = LogQuery(
            text=asked.get("grep"),
            model=asked.get("model"),
            node=asked.get("node"),
            instance=asked.get("instance"),
            service=asked.get("service"),
            level=_level(asked["level"]) if "level" in asked else None,
            since=_number(request, "since", 0) if "since" in asked else None,
            until=_number(request, "until", 0) if "until" in asked else None,
        )
        limit = int(_number(request, "limit", SEARCH_LIMIT))
        page = await search(
            self._bus, query, order=_order(asked.get("order")), limit=limit, cursor=asked.get("cursor")
        )
        return web.Response(body=msgspec.json.encode(page), content_type="application/json")

    async def on_logs(self, request: web.Request) -> web.Response:
        """The newest `limit` lines of the last `since_s` seconds that contain `grep`, oldest first."""
        since_s = _number(request, "since_s", SINCE_S)
        newest = collections.deque[object](maxlen=int(_number(request, "limit", LIMIT)))
        lines = instance_lines(
            self._bus,
            request.match_info["name"],
            since=time.time() - since_s,
            grep=request.query.get("grep"),
            follow=False,
        )
        async for line in lines:
            newest.append(line)
        return web.Response(
            body=msgspec.json.encode({"lines": list(newest)}), content_type="application/json"
        )


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
