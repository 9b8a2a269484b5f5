"""What the hub's refusals mean: a stable code, and one sentence with what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from services.downloader.backoff import parse_retry_after_s
from services.downloader.errors import HubError


@contextmanager
def explained(endpoint: str, subject: str, revision: str | None = None) -> Iterator[None]:
    """Whatever the hub's library raises inside becomes a HubError; `subject` is a repository or a search."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise offline() from error
    except errors.HfHubHTTPError as error:
        raise _refused(error, endpoint, subject, revision) from error
    except errors.HFValidationError as error:
        raise HubError("repo_not_found", f"{subject!r} is not a name the hub allows.") from error
    except httpx2.HTTPError as error:
        raise unreachable(endpoint) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError("hub_error", f"The hub's answer about {subject} makes no sense.") from error


def gated(repo: str, endpoint: str) -> HubError:
    """Its owner wants its terms to be accepted, by the account that the token belongs to."""
    hub = endpoint.rstrip("/")
    return HubError(
        "gated_repo",
        f"{repo} is gated: accept its terms at {hub}/{repo}, make a token at {hub}/settings/tokens, "
        "and start the yard with HF_TOKEN set to it.",
    )


def not_found(repo: str) -> HubError:
    """The hub does not tell missing from private."""
    return HubError(
        "repo_not_found",
        f"{repo} is not on the hub, or private; check the name, or set HF_TOKEN if it is yours.",
    )


def disabled(repo: str) -> HubError:
    """Taken down."""
    return HubError("repo_disabled", f"The hub has disabled {repo}; look for the model elsewhere.")


def token_refused(endpoint: str) -> HubError:
    """The token itself is no good."""
    return HubError(
        "hub_token_refused",
        f"The hub does not accept the token in HF_TOKEN; make a new one at "
        f"{endpoint.rstrip('/')}/settings/tokens.",
    )


def rate_limited(retry_after_s: float | None) -> HubError:
    """Too many questions."""
    when = f"in {retry_after_s:.0f} s" if retry_after_s else "in some minutes"
    return HubError(
        "hub_rate_limited",
        f"The hub wants fewer requests: try again {when}; with HF_TOKEN set it allows more.",
        retry_after_s or 0.0,
    )


def offline() -> HubError:
    """A setting of the hub's own library forbids it."""
    return HubError("hub_offline", "HF_HUB_OFFLINE is set; unset it to reach the hub.")


def unreachable(endpoint: str) -> HubError:
    """Nobody is there."""
    return HubError(
        "hub_unreachable",
        f"Nobody answers at {urlsplit(endpoint).hostname}; check the network, or HF_ENDPOINT.",
    )


def _refused(error: Exception, endpoint: str, subject: str, revision: str | None) -> HubError:
    """GatedRepoError comes first: to the library it is one kind of RepositoryNotFoundError."""
    from huggingface_hub import errors

    assert isinstance(error, errors.HfHubHTTPError)
    if isinstance(error, errors.GatedRepoError):
        return gated(subject, endpoint)
    if isinstance(error, errors.DisabledRepoError):
        return disabled(subject)
    if isinstance(error, errors.RepositoryNotFoundError):
        return not_found(subject)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError("revision_not_found", f"{subject} has no revision {revision!r}.")
    if isinstance(error, errors.EntryNotFoundError):
        return HubError("entry_not_found", f"{subject} does not have that file.")
    answer = error.response
    return _by_status(answer.status_code, answer.headers.get("Retry-After"), endpoint, subject)


def _by_status(status: int, retry_after: str | None, endpoint: str, subject: str) -> HubError:
    if status == 401:
        return token_refused(endpoint)
    if status == 403:
        return HubError(
            "hub_token_refused", f"The token in HF_TOKEN may not read {subject}; give it the right to."
        )
    if status == 429:
        return rate_limited(parse_retry_after_s(retry_after))
    return HubError(
        "hub_error",
        f"The hub answered {status} when asked about {subject}; try again later.",
        parse_retry_after_s(retry_after) or 0.0,
    )
