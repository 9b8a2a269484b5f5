"""What every HTTP request passes: errors in the one shape, Host and Origin, API key."""

from collections.abc import Awaitable, Callable, Mapping

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
from services.gateway.cross_origin import ORIGIN, is_preflight, preflight
from services.gateway.exposure import Keys, Origins

log = logs.get(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Encode = Callable[[YardError], bytes]
KEY_ID = web.RequestKey("key_id", str)
_OPEN = frozenset({"/health", "/ws"})
"""Without a key: the health check, and the WebSocket, which asks for the key itself."""


def error_response(error: YardError, encode: Encode = YardError.encode) -> web.Response:
    """An error in the one shape, or as `encode` says it."""
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else None
    return web.Response(
        body=encode(error), status=error.status, content_type="application/json", headers=headers
    )


def errors(shapes: Mapping[str, Encode]) -> Middleware:
    """Every failure becomes a sentence with a code; what we did not foresee is logged and 500.

    `shapes` has the paths whose clients read errors in another shape than the one.
    """

    @web.middleware
    async def catch(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except YardError as error:
            told = error
        except web.HTTPException as error:
            if error.status < 400:
                raise
            told = _from_aiohttp(request, error)
        except ConnectionError:
            # The client left; nobody reads this.
            raise
        except web.RequestPayloadError:
            told = BadRequest("The body does not come as its Content-Encoding or Transfer-Encoding says.")
        except RecursionError:
            told = InvalidJson("The body is nested too deeply.")
        except Exception:
            log.exception("request_failed", path=request.path)
            told = InternalError("Something went wrong inside; the gateway's log has it.")
        return error_response(told, shapes.get(request.path, YardError.encode))

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


def guard(origins: Origins, keys: Keys) -> Middleware:
    """Let in who may come in."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        origins.check(request.headers.get("Host"), origin)
        if origin is not None:
            request[ORIGIN] = origin
            if is_preflight(request):
                return preflight(request)
        if _needs_key(request.path) and (key_id := keys.check(bearer(request))):
            request[KEY_ID] = key_id
        return await handler(request)

    return check


def _needs_key(path: str) -> bool:
    """The page itself is public; all it shows comes from paths that are not."""
    return (path.startswith(("/v1/", "/api/")) or path == "/metrics") and path not in _OPEN


def bearer(request: web.Request) -> str | None:
    """The API key of a request, as OpenAI clients or as Anthropic clients send it."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return request.headers.get("X-Api-Key")
