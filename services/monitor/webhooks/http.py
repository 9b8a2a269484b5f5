"""Telling a URL: one signed POST, no redirect followed, nothing of the answer read but its status."""

import ipaddress
import socket
import time

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from modelyard.backoff import parse_retry_after_s
from schemas.errors import BadRequest
from services.monitor.webhooks.occurrence import Occurrence
from services.monitor.webhooks.sender import NotDelivered
from services.monitor.webhooks.signing import signed

TIMEOUT_S = 8.0
_CONNECT_S = 4.0
_MAX_URL = 2000
_TAKEN = range(200, 300)
_ELSEWHERE = range(300, 400)
_HEADERS = {"Content-Type": "application/cloudevents+json", "User-Agent": "modelyard-webhook"}


class ForbiddenAddress(OSError):
    """An address that no hook may have."""


def check_url(text: str) -> URL:
    """The URL, if one may be told there; BadRequest, which does not repeat it: it may be a secret."""
    try:
        url = URL(text)
        # As it will be looked up: a part of a name may be too long, or empty.
        (url.host or "").encode("idna")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or len(text) > _MAX_URL:
        raise BadRequest("A webhook is an http:// or https:// URL.", param="url")
    if _is_forbidden(url.host):
        raise BadRequest(f"{url.host} is a link-local address, where nobody's receiver is.", param="url")
    return url


def shown(url: URL) -> str:
    """What everybody may know of it."""
    return str(url.origin())


def _is_forbidden(host: str) -> bool:
    """Link-local: clouds answer there with secrets. On loopback and private ones people have their own."""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_link_local


class Resolver(AbstractResolver):
    """Names that lead to a forbidden address lead nowhere."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if any(_is_forbidden(each["host"]) for each in found):
            raise ForbiddenAddress(f"{host} is a link-local address")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def new_session() -> aiohttp.ClientSession:
    """For every hook: it remembers no cookie and keeps no connection."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=Resolver()),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=_CONNECT_S),
    )


class HttpSender:
    """One URL with its secret."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, secret: str) -> None:
        self._session = session
        self._url = url
        self._secret = secret

    async def send(self, occurrence: Occurrence) -> None:
        """POST it."""
        body = occurrence.body()
        headers = {**_HEADERS, **signed(self._secret, occurrence.id, int(time.time()), body)}
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                self._check(answer)
        except TimeoutError:
            raise NotDelivered(f"It did not answer in {TIMEOUT_S:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(_sentence(error)) from None

    def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status in _TAKEN:
            return
        if answer.status in _ELSEWHERE:
            raise NotDelivered(f"It answered {answer.status}, and redirects are not followed.")
        retry_after_s = parse_retry_after_s(answer.headers.get("Retry-After"))
        raise NotDelivered(f"It answered {answer.status}.", retry_after_s=retry_after_s)


def _sentence(error: Exception) -> str:
    """What went wrong, without the URL that libraries like to repeat."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "Its certificate is not trusted here."
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ForbiddenAddress):
        return f"{cause}."
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"It cannot be reached: {error.strerror or type(cause).__name__}."
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        return "It closed the connection without an answer."
    return f"It could not be told ({type(error).__name__})."
