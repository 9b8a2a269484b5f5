"""What all HTTP requests share: errors in one shape, Host and Origin, API keys, CORS, the page's files."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from modelyard.bus import logs
from schemas.errors import (
    BadRequest,
    BodyTooLarge,
    Forbidden,
    InternalError,
    InvalidJson,
    MethodNotAllowed,
    NotFound,
    YardError,
)
from services.gateway.access import ApiKeys, Origins

log = logs.get(__name__)

T = TypeVar("T")
HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ErrorEncoder = Callable[[YardError], bytes]
KEY_ID = web.RequestKey("key_id", str)
"""The id of the API key of a request, where keys are in use."""
ORIGIN = web.RequestKey("origin", str)
"""The origin of a page that may use the yard."""
_PUBLIC = frozenset({"/health", "/ws"})
"""Paths without a key: the health check, and the WebSocket, which checks the key itself."""
_EXPOSED_HEADERS = "X-Request-Id, Retry-After, X-Queue-Position, X-Queue-Expected-Wait-S"
_PREFLIGHT_MAX_AGE_S = "600"
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE_SUFFIXES = frozenset({".html", ".js", ".css", ".svg"})


def json_response(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The JSON body of a request; InvalidJson with the reason."""
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not what {request.path} takes: {error}.") from error


def error_response(error: YardError, encode: ErrorEncoder = YardError.encode) -> web.Response:
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else None
    return web.Response(
        body=encode(error), status=error.status, content_type="application/json", headers=headers
    )


def handle_errors(encoders: Mapping[str, ErrorEncoder]) -> Middleware:
    """Every failure becomes a response with a code; an unexpected one is logged and is a 500.

    `encoders`: by path, where clients read errors in another shape.
    """

    @web.middleware
    async def catch(request: web.Request, handler: HttpHandler) -> web.StreamResponse:
        try:
            return await handler(request)
        except YardError as failure:
            error = failure
        except web.HTTPException as failure:
            if failure.status < 400:
                raise
            error = _from_aiohttp(request, failure)
        except ConnectionError:
            # The client left: there is no one to respond to.
            raise
        except web.RequestPayloadError:
            error = BadRequest("The body does not come as its Content-Encoding or Transfer-Encoding says.")
        except RecursionError:
            error = InvalidJson("The body is nested too deeply.")
        except Exception:
            log.exception("request_failed", path=request.path)
            error = InternalError("Something went wrong inside; the gateway's log has it.")
        return error_response(error, encoders.get(request.path, YardError.encode))

    return catch


def _from_aiohttp(request: web.Request, error: web.HTTPException) -> YardError:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge(f"The body is over the limit of {request.client_max_size} bytes.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"{request.path} does not take {request.method}, but {allowed}.")
    if error.status == 404:
        return NotFound(f"There is no {request.path} here.")
    if error.status == 403:
        return Forbidden(f"{request.path} is not served.")
    return BadRequest(error.reason)


def guard(origins: Origins, keys: ApiKeys) -> Middleware:

    @web.middleware
    async def check(request: web.Request, handler: HttpHandler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        origins.check(request.headers.get("Host"), origin)
        if origin is not None:
            request[ORIGIN] = origin
            if _is_preflight(request):
                return _preflight(request)
        if _needs_key(request.path) and (key_id := keys.check(bearer(request))):
            request[KEY_ID] = key_id
        return await handler(request)

    return check


def _needs_key(path: str) -> bool:
    # The page's files are public; all it shows comes from paths that are not.
    return (path.startswith(("/v1/", "/api/")) or path == "/metrics") and path not in _PUBLIC


def bearer(request: web.Request) -> str | None:
    """The API key of a request, as clients of OpenAI or of Anthropic send it."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get("X-Api-Key")


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _preflight(request: web.Request) -> web.Response:
    """Any method and header is allowed to a page whose origin is."""
    method = request.headers["Access-Control-Request-Method"]
    headers = {"Access-Control-Allow-Methods": method, "Access-Control-Max-Age": _PREFLIGHT_MAX_AGE_S}
    if requested := request.headers.get("Access-Control-Request-Headers"):
        headers["Access-Control-Allow-Headers"] = requested
    return web.Response(status=204, headers=headers)


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Name the origin, without which a browser does not give the response to its page."""
    if (origin := request.get(ORIGIN)) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        response.headers.add("Vary", "Origin")


def page_routes(folder: Path) -> list[web.RouteDef]:
    """`/` and every file of the page by its own path; a file that is not there at start is not served."""
    files = (file for file in sorted(folder.rglob("*")) if file.suffix in _PAGE_SUFFIXES)
    own = [web.get(f"/{file.relative_to(folder).as_posix()}", _serve(file)) for file in files]
    return [web.get("/", _serve(folder / "index.html")), *own]


def _serve(file: Path) -> Callable[[web.Request], Awaitable[web.FileResponse]]:
    async def handler(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(file, headers=_PAGE_HEADERS)

    return handler
