"""How the hub is reached: its address, the token, and whether it responds."""

import socket

from huggingface_hub import constants, get_token, hf_hub_url
from yarl import URL

from services.downloader.errors import HubError
from services.downloader.hub import errors
from services.downloader.transfer.http import proxy_for

PROBE_TIMEOUT_S = 5.0


def authorization() -> str | None:
    """The Authorization header that the library would send: HF_TOKEN or the token of `hf auth login`."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return f"Bearer {token}" if token else None


def hub_endpoint() -> str:
    """The hub's URL: HF_ENDPOINT or the public one."""
    return constants.ENDPOINT


def file_url(repo: str, path: str, commit: str, *, endpoint: str | None = None) -> str:
    """The address of a file's bytes."""
    return hf_hub_url(repo, path, revision=commit, endpoint=endpoint)


def reachable_endpoint(endpoint: str | None = None) -> str:
    """The hub's URL, probed first; HubError if the library is offline or nothing responds.

    The library itself would retry for minutes. Its telemetry is disabled here, before its first request.
    """
    constants.HF_HUB_DISABLE_TELEMETRY = True
    if constants.is_offline_mode():
        raise errors.offline()
    endpoint = endpoint or hub_endpoint()
    probe(endpoint)
    return endpoint


def probe(endpoint: str, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """HubError within seconds if nothing responds at endpoint, or at the proxy on the way there."""
    try:
        url = URL(proxy_for(URL(endpoint)) or endpoint)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or url.host is None:
        raise HubError("hub_unreachable", f"HF_ENDPOINT is {endpoint!r}, which is not a URL; correct it.")
    try:
        socket.create_connection((url.host, url.port), timeout=timeout_s).close()
    except OSError as error:
        raise errors.unreachable(endpoint) from error
