"""`/api/logs/NAME`: what a model or an instance printed, as far as lines are kept."""

import collections
import time

import msgspec
from aiohttp import web

from modelyard.bus import Bus
from modelyard.client.kept import logs
from schemas.errors import BadRequest

SINCE_S = 600.0
LIMIT = 1000


class Logs:
    """The handler of `/api/logs`. `/ws` is there for those who follow."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/logs/{name:.+}", self.on_logs)]

    async def on_logs(self, request: web.Request) -> web.Response:
        """The newest `limit` lines of the last `since_s` seconds that contain `grep`, oldest first."""
        since_s = _number(request, "since_s", SINCE_S)
        newest = collections.deque[object](maxlen=int(_number(request, "limit", LIMIT)))
        lines = logs(
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
    if not 0 < value <= 1e9:
        raise BadRequest(f"{name} must be a number above 0.", param=name)
    return value
