"""Letting pages of other origins that are ours read what they asked for (CORS)."""

from aiohttp import web

ORIGIN = web.RequestKey("origin", str)
"""The origin of a page that may use the yard."""
_TOLD = "X-Request-Id, Retry-After, X-Queue-Position, X-Queue-Expected-Wait-S"
_REMEMBERED_S = "600"


def is_preflight(request: web.Request) -> bool:
    """Whether a browser only asks whether it may ask."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def preflight(request: web.Request) -> web.Response:
    """Yes: whatever page may send at all may send any method and header."""
    headers = {
        "Access-Control-Allow-Methods": request.headers["Access-Control-Request-Method"],
        "Access-Control-Max-Age": _REMEMBERED_S,
    }
    if asked := request.headers.get("Access-Control-Request-Headers"):
        headers["Access-Control-Allow-Headers"] = asked
    return web.Response(status=204, headers=headers)


async def share(request: web.Request, response: web.StreamResponse) -> None:
    """Before the headers go out: name the origin, without which a browser keeps the answer to itself."""
    if (origin := request.get(ORIGIN)) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _TOLD
        response.headers.add("Vary", "Origin")
