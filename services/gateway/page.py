"""The dashboard's files."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_SUFFIXES = frozenset({".html", ".js", ".css", ".svg"})


def page_routes(folder: Path) -> list[web.RouteDef]:
    """`/` and every file of the page by its own path; a file not found at start is not served."""
    routes = [web.get("/", _serve(folder / "index.html"))]
    for file in sorted(folder.rglob("*")):
        if file.suffix in _SUFFIXES:
            routes.append(web.get(f"/{file.relative_to(folder).as_posix()}", _serve(file)))
    return routes


def _serve(file: Path) -> Callable[[web.Request], Awaitable[web.FileResponse]]:
    async def handler(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(file, headers=_HEADERS)

    return handler
