"""What the hub knows about a repository, asked through its own library; the bytes are not moved here."""

import os
import re
import socket
import time
from typing import TYPE_CHECKING

from msgspec import Struct
from yarl import URL

from services.downloader.errors import HubError
from services.downloader.origin import proxy_for
from services.downloader.selection import Reference, RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_PROBE_TIMEOUT_S = 5.0
_REQUEST_TIMEOUT_S = 20.0
_PAUSES_S = (1.0, 3.0)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_QUIET = (
    *("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_UPDATE_CHECK"),
    *("HF_HUB_DISABLE_XET", "DO_NOT_TRACK"),
)


class RepoListing(Struct, frozen=True, kw_only=True):
    """A repository's files at one commit (40 hex digits)."""

    commit: str
    files: tuple[RemoteFile, ...]


def quiet_library() -> None:
    """Ask for no telemetry and no progress bars; the library reads this once, when it is imported."""
    os.environ.update(dict.fromkeys(_QUIET, "1"))


def list_repo(
    reference: Reference, *, endpoint: str | None = None, pauses_s: tuple[float, ...] = _PAUSES_S
) -> RepoListing:
    """The files of reference's repository at its revision; blocks. A busy hub is asked again a few times."""
    quiet_library()
    endpoint = endpoint or hub_endpoint()
    probe(endpoint)
    for pause_s in pauses_s:
        try:
            return _ask(reference, endpoint)
        except HubError as error:
            if error.code not in {"hub_error", "hub_unreachable"}:
                raise
        time.sleep(pause_s)
    return _ask(reference, endpoint)


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


def probe(endpoint: str, timeout_s: float = _PROBE_TIMEOUT_S) -> None:
    """Fail within seconds when nobody answers at endpoint (or at the proxy that leads there)."""
    try:
        url = URL(proxy_for(URL(endpoint)) or endpoint)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or url.host is None:
        raise HubError("hub_unreachable", f"HF_ENDPOINT is {endpoint!r}, which is not a URL; correct it.")
    try:
        socket.create_connection((url.host, url.port), timeout=timeout_s).close()
    except OSError as error:
        raise _unreachable(endpoint) from error


def _ask(reference: Reference, endpoint: str) -> RepoListing:
    import httpx2
    from huggingface_hub import HfApi, errors

    try:
        info = HfApi(endpoint=endpoint).model_info(
            reference.repo, revision=reference.revision, files_metadata=True, timeout=_REQUEST_TIMEOUT_S
        )
        return _listing(info)
    except errors.OfflineModeIsEnabled as error:
        raise HubError("hub_unreachable", "HF_HUB_OFFLINE is set; unset it to reach the hub.") from error
    except errors.HfHubHTTPError as error:
        raise _refused(error, reference) from error
    except errors.HFValidationError as error:
        raise HubError("repo_not_found", f"{reference.repo!r} is not a name the hub allows.") from error
    except httpx2.HTTPError as error:
        raise _unreachable(endpoint) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError("hub_error", f"The hub's answer about {reference.repo} makes no sense.") from error


def _refused(error: Exception, reference: Reference) -> HubError:
    """GatedRepoError comes first: to the library it is one kind of RepositoryNotFoundError."""
    from huggingface_hub import errors

    repo = reference.repo
    if isinstance(error, errors.GatedRepoError):
        sentence = f"{repo} is gated; accept its terms on the hub and set HF_TOKEN to your token."
        return HubError("gated_repo", sentence)
    if isinstance(error, errors.RepositoryNotFoundError):
        sentence = f"{repo} is not on the hub, or private; check the name, or set HF_TOKEN if it is yours."
        return HubError("repo_not_found", sentence)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError("revision_not_found", f"{repo} has no revision {reference.revision!r}.")
    if isinstance(error, errors.EntryNotFoundError):
        return HubError("entry_not_found", f"{repo} does not have that file.")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status == 401:
        return HubError("gated_repo", "The hub does not accept the token in HF_TOKEN; make a new one.")
    return HubError("hub_error", f"The hub answered {status} when asked about {repo}; try again later.")


def _listing(info: "ModelInfo") -> RepoListing:
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise ValueError("no commit")
    return RepoListing(commit=info.sha, files=tuple(_remote_file(entry) for entry in info.siblings or ()))


def _remote_file(entry: "RepoSibling") -> RemoteFile:
    size_bytes, sha256 = entry.size, None
    if entry.lfs is not None:
        size_bytes, sha256 = entry.lfs.size, entry.lfs.sha256
        if not _SHA256.fullmatch(sha256):
            raise ValueError("no sha256")
    if not isinstance(size_bytes, int) or size_bytes < 0:
        raise ValueError("no size")
    return RemoteFile(path=entry.rfilename, size_bytes=size_bytes, sha256=sha256)


def _unreachable(endpoint: str) -> HubError:
    host = URL(endpoint).host
    return HubError("hub_unreachable", f"Nobody answers at {host}; check the network, or HF_ENDPOINT.")
