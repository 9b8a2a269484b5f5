"""How the hub is reached: its address, our token, and whether anybody answers."""

import os
import socket

from services.downloader.errors import HubError
from services.downloader.hub import refusals

PROBE_TIMEOUT_S = 5.0
_QUIET = (
    *("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_UPDATE_CHECK"),
    *("HF_HUB_DISABLE_XET", "DO_NOT_TRACK"),
)


def quiet_library() -> None:
    """Ask for no telemetry and no progress bars; the library reads this once, when it is imported."""
    os.environ.update(dict.fromkeys(_QUIET, "1"))


def hub_endpoint() -> str:
    """The hub's URL: HF_ENDPOINT or the public one."""
    from huggingface_hub.constants import ENDPOINT

    return ENDPOINT


def authorization() -> str | None:
    """The Authorization header that the library would send: HF_TOKEN or the token of `hf auth login`."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return f"Bearer {token}" if token else None


def file_url(repo: str, path: str, commit: str, *, endpoint: str | None = None) -> str:
    """Where the bytes of one file are."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, path, revision=commit, endpoint=endpoint)


def check_online() -> None:
    """Say at once that this machine is told to stay away from the hub."""
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise refusals.offline()


def probe(endpoint: str, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """Fail within seconds when nobody answers at endpoint (or at the proxy that leads there)."""
    # The service itself asks nobody; its helper processes do.
    from yarl import URL

    from services.downloader.origin import proxy_for

    try:
        url = URL(proxy_for(URL(endpoint)) or endpoint)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or url.host is None:
        raise HubError("hub_unreachable", f"HF_ENDPOINT is {endpoint!r}, which is not a URL; correct it.")
    try:
        socket.create_connection((url.host, url.port), timeout=timeout_s).close()
    except OSError as error:
        raise refusals.unreachable(endpoint) from error
