"""What the hub says about repositories, and how its refusals read."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from services.downloader import hub as metadata
from services.downloader.errors import HubError
from services.downloader.hub import RepoListing
from services.downloader.reference import Reference, parse_reference
from services.downloader.selection import RemoteFile
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


async def ask(hub: Hub, reference: str) -> RepoListing:
    wanted: Reference = parse_reference(reference)
    return await asyncio.to_thread(metadata.list_repo, wanted, endpoint=hub.url, pauses_s=(0.0, 0.0))


async def refusal(hub: Hub, reference: str = NAME) -> HubError:
    with pytest.raises(HubError) as caught:
        await ask(hub, reference)
    assert caught.value.sentence.endswith(".")
    return caught.value


async def test_files_come_with_sizes_hashes_and_the_commit(hub: Hub) -> None:
    listing = await ask(hub, NAME)
    file = hub.file(NAME, "m-Q4_0.gguf")
    assert listing.commit == hub.repos[NAME].sha
    assert listing.files[0] == RemoteFile(path="m-Q4_0.gguf", size_bytes=4, sha256=file.sha256)
    assert listing.files[1].path == "sub/m-Q8_0.gguf"


async def test_files_outside_lfs_have_a_size_and_gits_name(hub: Hub) -> None:
    """The name is what `git hash-object` says."""
    hub.add_repo("org/small", {"m.gguf": b"GGUF"}, lfs=False)
    (file,) = (await ask(hub, "org/small")).files
    assert file == RemoteFile(
        path="m.gguf", size_bytes=4, blob_sha1="53b7dcdfb2702f3512ca9b967b2a138fcfe9bea9"
    )


async def test_a_revision_is_asked_for(hub: Hub) -> None:
    assert (await ask(hub, f"{NAME}@v1")).commit == hub.repos[NAME].sha
    assert "/revision/v1" in hub.seen[-1].path
    assert (await refusal(hub, f"{NAME}@v2")).code == "revision_not_found"


async def test_an_unknown_or_private_repository_is_not_found(hub: Hub) -> None:
    hub.repos[NAME].private = True
    assert (await refusal(hub)).code == "repo_not_found"
    assert (await refusal(hub, "org/other")).code == "repo_not_found"


async def test_a_gated_repository_is_told_apart(hub: Hub) -> None:
    hub.repos[NAME].gated = hub.repos[NAME].hides_metadata = True
    error = await refusal(hub)
    assert error.code == "gated_repo"
    assert "accept its terms" in error.sentence


async def test_a_busy_hub_is_asked_again_and_then_given_up(hub: Hub) -> None:
    hub.api_statuses = [500, 429]
    assert (await ask(hub, NAME)).commit
    hub.api_statuses = [500, 502, 503]
    error = await refusal(hub)
    assert error.code == "hub_error"
    assert "answered 503" in error.sentence


async def test_the_hubs_wish_to_be_left_alone_is_honoured_when_it_is_asked_for_files(hub: Hub) -> None:
    hub.api_statuses, hub.api_retry_after = [429], "1"
    started_s = time.monotonic()
    await ask(hub, NAME)
    assert time.monotonic() - started_s >= 1.0
    hub.api_statuses, hub.api_retry_after = [503], "100000"
    assert (await refusal(hub)).code == "hub_error", "nobody waits that long"


async def test_listings_that_make_no_sense_are_refused(hub: Hub) -> None:
    hub.repos[NAME].sha = "not-a-commit/.."
    assert (await refusal(hub)).code == "hub_error"
    hub.repos[NAME].sha = "0" * 40
    hub.file(NAME, "m-Q4_0.gguf").sha256 = "zz"
    assert (await refusal(hub)).code == "hub_error"
    hub.file(NAME, "m-Q4_0.gguf").sha256 = "0" * 64
    hub.file(NAME, "m-Q4_0.gguf").size_bytes = -1
    assert (await refusal(hub)).code == "hub_error"


async def test_an_unreachable_hub_is_told_within_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = Hub()
        dead.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        started_s = time.monotonic()
        assert (await refusal(dead)).code == "hub_unreachable"
        assert time.monotonic() - started_s < 3


@pytest.mark.parametrize("endpoint", ["nowhere", "http://", "http://host:port", "ftp://host"])
def test_an_endpoint_that_is_no_url_is_told(endpoint: str) -> None:
    with pytest.raises(HubError, match="HF_ENDPOINT") as caught:
        metadata.probe(endpoint)
    assert caught.value.code == "hub_unreachable"


def test_a_probe_asks_the_proxy_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "internal.test")
        metadata.probe("https://hub.test", timeout_s=1)
        with pytest.raises(HubError):
            metadata.probe("https://internal.test", timeout_s=1)
