"""Access to the hub: its address, the token, a probe, and its refusals as HubError with a sentence."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
from huggingface_hub import constants, errors, get_token, hf_hub_url
from yarl import URL

from modelyard.backoff import parse_retry_after_s
from services.downloader.errors import HubError

PROBE_TIMEOUT_S = 5.0


def authorization() -> str | None:
    """The Authorization header that the library would send: HF_TOKEN or the token of `hf auth login`."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return f"Bearer {token}" if token else None


def hub_endpoint() -> str:
    """The hub's URL: HF_ENDPOINT or the public one."""
    return constants.ENDPOINT


def file_url(repo: str, path: str, commit: str, *, endpoint: str | None = None) -> str:
    return hf_hub_url(repo, path, revision=commit, endpoint=endpoint)


def reachable_endpoint(endpoint: str | None = None) -> str:
    """The hub's URL, probed first; HubError if the library is offline or nothing responds.

    The library itself would retry for minutes. Its telemetry is disabled here, before its first request.
    """
    constants.HF_HUB_DISABLE_TELEMETRY = True
    if constants.is_offline_mode():
        raise offline()
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
        raise unreachable(endpoint) from error


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment (HTTPS_PROXY, NO_PROXY...) sets for this URL."""
    if url.host is None or proxy_bypass(f"{url.host}:{url.port}") or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


@contextmanager
def translated_errors(endpoint: str, subject: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the hub's library raises into HubError; `subject` is a repository or a search."""
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise offline() from error
    except errors.HfHubHTTPError as error:
        raise _refusal(error, endpoint, subject, revision) from error
    except errors.HFValidationError as error:
        raise HubError("repo_not_found", f"{subject!r} is not a name the hub allows.") from error
    except httpx2.HTTPError as error:
        raise unreachable(endpoint) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError("hub_error", f"The hub sent an invalid response about {subject}.") from error


def gated(repo: str, endpoint: str) -> HubError:
    """The owner's terms have to be accepted by the account of the token."""
    hub = endpoint.rstrip("/")
    return HubError(
        "gated_repo",
        f"{repo} is gated: accept its terms at {hub}/{repo}, make a token at {hub}/settings/tokens, "
        "and start the yard with HF_TOKEN set to it.",
    )


def not_found(repo: str) -> HubError:
    """Missing or private: the hub does not distinguish them."""
    return HubError(
        "repo_not_found",
        f"{repo} is not on the hub, or private; check the name, or set HF_TOKEN if it is yours.",
    )


def disabled(repo: str) -> HubError:
    return HubError("repo_disabled", f"The hub has disabled {repo}; choose another repository.")


def offline() -> HubError:
    return HubError("hub_offline", "HF_HUB_OFFLINE is set; unset it to reach the hub.")


def unreachable(endpoint: str) -> HubError:
    return HubError(
        "hub_unreachable",
        f"The hub at {urlsplit(endpoint).hostname} does not answer; check the network, or HF_ENDPOINT.",
    )


def _refusal(error: errors.HfHubHTTPError, endpoint: str, subject: str, revision: str | None) -> HubError:
    """GatedRepoError comes first: it is a subclass of RepositoryNotFoundError."""
    match error:
        case errors.GatedRepoError():
            return gated(subject, endpoint)
        case errors.DisabledRepoError():
            return disabled(subject)
        case errors.RepositoryNotFoundError():
            return not_found(subject)
        case errors.RevisionNotFoundError():
            return HubError("revision_not_found", f"{subject} has no revision {revision!r}.")
        case errors.EntryNotFoundError():
            return HubError("entry_not_found", f"{subject} does not have that file.")
    retry_after_s = parse_retry_after_s(error.response.headers.get("Retry-After"))
    match error.response.status_code:
        case 401:
            return HubError(
                "hub_token_refused",
                "The hub does not accept the token in HF_TOKEN; make a new one at "
                f"{endpoint.rstrip('/')}/settings/tokens.",
            )
        case 403:
            return HubError(
                "hub_token_refused", f"The token in HF_TOKEN may not read {subject}; give it the right to."
            )
        case 429:
            when = f"in {retry_after_s:.0f} s" if retry_after_s else "in some minutes"
            return HubError(
                "hub_rate_limited",
                f"The hub wants fewer requests: try again {when}; with HF_TOKEN set it allows more.",
                retry_after_s or 0.0,
            )
        case status:
            return HubError(
                "hub_error",
                f"The hub answered {status} to a request for {subject}; try again later.",
                retry_after_s or 0.0,
            )
