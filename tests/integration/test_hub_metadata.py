"""Repository metadata from the hub, and its refusals as errors."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from services.downloader.errors import HubError
from services.downloader.hub.access import probe
from services.downloader.hub.repositories import list_repo
from services.downloader.reference import parse_reference
from services.downloader.selection.files import RemoteFile, RepoListing
from tests.hub import Hub

NAME = "org/tiny-GGUF"


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub(token="hf_good") as hub:
        hub.add_repo(NAME, {"m-Q4_0.gguf": b"GGUF", "sub/m-Q8_0.gguf": b"GGUFGGUF"}, revisions=("main", "v1"))
        yield hub


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)


async def listing_of(hub: Hub, reference: str) -> RepoListing:
    return await asyncio.to_thread(
        list_repo, parse_reference(reference), endpoint=hub.url, pauses_s=(0.0, 0.0)
    )


async def refusal(hub: Hub, reference: str = NAME) -> HubError:
    with pytest.raises(HubError) as caught:
        await listing_of(hub, reference)
    assert caught.value.sentence.endswith(".")
    return caught.value


async def test_listing_has_sizes_hashes_and_the_commit(hub: Hub) -> None:
    listing = await listing_of(hub, NAME)
    file = hub.file(NAME, "m-Q4_0.gguf")
    assert listing.commit == hub.repos[NAME].sha
    assert listing.files[0] == RemoteFile(path="m-Q4_0.gguf", size_bytes=4, sha256=file.sha256)
    assert listing.files[1].path == "sub/m-Q8_0.gguf"


async def test_files_outside_lfs_have_a_size_and_a_git_hash(hub: Hub) -> None:
    """The hash is that of `git hash-object`."""
    hub.add_repo("org/small", {"m.gguf": b"GGUF"}, lfs=False)
    (file,) = (await listing_of(hub, "org/small")).files
    assert file == RemoteFile(
        path="m.gguf", size_bytes=4, blob_sha1="53b7dcdfb2702f3512ca9b967b2a138fcfe9bea9"
    )


async def test_a_revision_is_requested(hub: Hub) -> None:
    assert (await listing_of(hub, f"{NAME}@v1")).commit == hub.repos[NAME].sha
    assert "/revision/v1" in hub.requests[-1].path
    assert (await refusal(hub, f"{NAME}@v2")).code == "revision_not_found"


async def test_an_unknown_or_private_repository_is_not_found(hub: Hub) -> None:
    hub.repos[NAME].private = True
    assert (await refusal(hub)).code == "repo_not_found"
    assert (await refusal(hub, "org/other")).code == "repo_not_found"


async def test_a_gated_repository_has_its_own_code(hub: Hub) -> None:
    hub.repos[NAME].gated = hub.repos[NAME].hides_metadata = True
    error = await refusal(hub)
    assert error.code == "gated_repo"
    assert "accept its terms" in error.sentence


async def test_a_busy_hub_is_retried_and_then_fails(hub: Hub) -> None:
    hub.api_statuses = [500, 429]
    assert (await listing_of(hub, NAME)).commit
    hub.api_statuses = [500, 502, 503]
    error = await refusal(hub)
    assert error.code == "hub_error"
    assert "answered 503" in error.sentence


async def test_retry_after_is_obeyed_up_to_a_maximum(hub: Hub) -> None:
    hub.api_statuses, hub.api_retry_after = [429], "1"
    started_s = time.monotonic()
    await listing_of(hub, NAME)
    assert time.monotonic() - started_s >= 1.0
    hub.api_statuses, hub.api_retry_after = [503], "100000"
    assert (await refusal(hub)).code == "hub_error", "longer than the maximum"


async def test_invalid_listings_are_refused(hub: Hub) -> None:
    hub.repos[NAME].sha = "not-a-commit/.."
    assert (await refusal(hub)).code == "hub_error"
    hub.repos[NAME].sha = "0" * 40
    hub.file(NAME, "m-Q4_0.gguf").sha256 = "zz"
    assert (await refusal(hub)).code == "hub_error"
    hub.file(NAME, "m-Q4_0.gguf").sha256 = "0" * 64
    hub.file(NAME, "m-Q4_0.gguf").size_bytes = -1
    assert (await refusal(hub)).code == "hub_error"


async def test_an_unreachable_hub_fails_within_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = Hub()
        dead.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        started_s = time.monotonic()
        assert (await refusal(dead)).code == "hub_unreachable"
        assert time.monotonic() - started_s < 3


@pytest.mark.parametrize("endpoint", ["nowhere", "http://", "http://host:port", "ftp://host"])
def test_an_endpoint_that_is_not_a_url_is_refused(endpoint: str) -> None:
    with pytest.raises(HubError, match="HF_ENDPOINT") as caught:
        probe(endpoint)
    assert caught.value.code == "hub_unreachable"


def test_the_probe_uses_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "internal.test")
        probe("https://hub.test", timeout_s=1)
        with pytest.raises(HubError):
            probe("https://internal.test", timeout_s=1)
