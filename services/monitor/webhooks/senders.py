"""Senders of webhook events: signed HTTP requests, and programs of this machine (JSON on stdin, no shell)."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from modelyard.backoff import parse_retry_after_s
from modelyard.host.processes import ProcessGroup, dying_with_parent
from schemas.errors import BadRequest
from services.monitor.webhooks.events import WebhookEvent
from services.monitor.webhooks.secrets import signature_headers

PROGRAM_TIMEOUT_S = 10.0
_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ"),
    *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY"),
)
"""Variables that a program inherits; `notify-send` needs the last three."""
HTTP_TIMEOUT_S = 8.0
_CONNECT_S = 4.0
_MAX_URL = 2000
_SUCCESS = range(200, 300)
_REDIRECTION = range(300, 400)
_HEADERS = {"Content-Type": "application/cloudevents+json", "User-Agent": "modelyard-webhook"}


class DeliveryFailed(Exception):
    """The receiver did not accept an event; the message says why, without secrets."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WebhookSender(Protocol):
    """Sends events to one receiver."""

    async def send(self, event: WebhookEvent) -> None:
        """Return when the receiver has accepted it; DeliveryFailed otherwise, within a bounded time."""
        ...


class CommandSender:
    def __init__(self, argv: Sequence[str], folder: Path) -> None:
        self._argv = tuple(argv)
        self._folder = folder

    async def send(self, event: WebhookEvent) -> None:
        """Run it to its end; its children are killed with it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                cwd=self._folder,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=dying_with_parent(signal.SIGKILL),
            )
        except OSError as error:
            raise DeliveryFailed(f"It cannot be run: {error.strerror}.") from None
        await self._wait(process, event)

    async def _wait(self, process: asyncio.subprocess.Process, event: WebhookEvent) -> None:
        group = ProcessGroup.led_by(process.pid)
        try:
            async with asyncio.timeout(PROGRAM_TIMEOUT_S):
                with contextlib.suppress(ConnectionError):
                    await process.communicate(event.body())
                code = await process.wait()
        except TimeoutError:
            raise DeliveryFailed(f"It ran longer than {PROGRAM_TIMEOUT_S:g} s and was ended.") from None
        finally:
            await asyncio.shield(group.kill())
            await process.wait()
        if code != 0:
            raise DeliveryFailed(f"It ended with {code}.")


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
        timeout=aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S, sock_connect=_CONNECT_S),
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
            raise DeliveryFailed(f"It did not answer in {HTTP_TIMEOUT_S:g} s.") from None
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
