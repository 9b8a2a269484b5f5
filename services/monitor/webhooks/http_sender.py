"""Sends webhook events to URLs: one signed POST, no redirects, of the response only the status is read."""

import ipaddress
import socket
import time

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from modelyard.backoff import parse_retry_after_s
from schemas.errors import BadRequest
from services.monitor.webhooks.events import WebhookEvent
from services.monitor.webhooks.secrets import signature_headers
from services.monitor.webhooks.senders import DeliveryFailed

TIMEOUT_S = 8.0
_CONNECT_S = 4.0
_MAX_URL = 2000
_SUCCESS = range(200, 300)
_REDIRECTION = range(300, 400)
_HEADERS = {"Content-Type": "application/cloudevents+json", "User-Agent": "modelyard-webhook"}


class ForbiddenAddress(OSError):
    """An address that webhooks must not reach."""


def check_url(text: str) -> URL:
    """The parsed URL; BadRequest, which does not repeat it, for it may contain a secret."""
    try:
        url = URL(text)
        # As the resolver encodes it: a label of the name may be too long or empty.
        (url.host or "").encode("idna")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or len(text) > _MAX_URL:
        raise BadRequest("A webhook is an http:// or https:// URL.", param="url")
    if _is_forbidden(url.host):
        raise BadRequest(f"{url.host} is a link-local address; a webhook cannot be there.", param="url")
    return url


def public_part(url: URL) -> str:
    """Scheme, host and port, without what may be secret."""
    return str(url.origin())


def _is_forbidden(host: str) -> bool:
    """Link-local addresses serve secrets in clouds. Loopback and private ones are allowed."""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_link_local


class GuardedResolver(AbstractResolver):
    """Refuses names that resolve to a forbidden address."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        if any(_is_forbidden(result["host"]) for result in results):
            raise ForbiddenAddress(f"{host} is a link-local address")
        return results

    async def close(self) -> None:
        await self._resolver.close()


def new_session() -> aiohttp.ClientSession:
    """A session for all webhooks, without cookies and without connection reuse."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=GuardedResolver()),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=_CONNECT_S),
    )


class HttpSender:
    """Posts events to one URL, signed with its secret."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, secret: str) -> None:
        self._session = session
        self._url = url
        self._secret = secret

    async def send(self, event: WebhookEvent) -> None:
        """Post the event; DeliveryFailed unless the status is 2xx."""
        body = event.body()
        headers = {**_HEADERS, **signature_headers(self._secret, event.id, int(time.time()), body)}
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                _check_status(response)
        except TimeoutError:
            raise DeliveryFailed(f"It did not answer in {TIMEOUT_S:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DeliveryFailed(_sentence(error)) from None


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status in _SUCCESS:
        return
    if response.status in _REDIRECTION:
        raise DeliveryFailed(f"It answered {response.status}, and redirects are not followed.")
    retry_after_s = parse_retry_after_s(response.headers.get("Retry-After"))
    raise DeliveryFailed(f"It answered {response.status}.", retry_after_s=retry_after_s)


def _sentence(error: Exception) -> str:
    """A sentence without the URL, which messages of libraries repeat."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "Its certificate is not trusted here."
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ForbiddenAddress):
        return f"{cause}."
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"It cannot be reached: {error.strerror or type(cause).__name__}."
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        return "It closed the connection without an answer."
    return f"It could not be reached ({type(error).__name__})."
