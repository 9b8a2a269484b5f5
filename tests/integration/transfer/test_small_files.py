"""Files outside LFS, of which the hub lists no sha256: configurations, tokenizers, templates."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from services.downloader.transfer.file_transfer import MIN_PIECE_BYTES
from services.downloader.transfer.options import FileSource
from tests.hub import ALWAYS, Hub, HubFile
from tests.integration.downloads import model_bytes
from tests.integration.transfer.support import NAME, OPTIONS, fail, fetch, source_of


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        yield hub


@pytest.fixture
def small(hub: Hub) -> HubFile:
    hub.add_repo(NAME, {"config.json": b'{"n_ctx": 4096}'}, lfs=False)
    return hub.file(NAME, "config.json")


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "store" / "config.json"


def blob_of(hub: Hub, small: HubFile) -> FileSource:
    return msgspec.structs.replace(source_of(hub, small, hashed=False), blob_sha1=small.blob_sha1)


async def test_a_small_file_with_wrong_bytes_is_fetched_again(
    hub: Hub, session: aiohttp.ClientSession, small: HubFile, dest: Path
) -> None:
    """The hub lists git's hash of the bytes and sends it as their ETag."""
    small.faults.corrupt_times = 1
    await fetch(session, blob_of(hub, small), dest)
    assert dest.read_bytes() == small.content
    assert small.requests == 2


async def test_a_small_file_with_wrong_bytes_fails_after_three_attempts(
    hub: Hub, session: aiohttp.ClientSession, small: HubFile, dest: Path
) -> None:
    small.faults.corrupt_times = ALWAYS
    assert (await fail(session, blob_of(hub, small), dest)).code == "hash_mismatch"
    assert small.requests == 3


async def test_a_made_up_git_hash_is_ignored_unless_it_is_the_etag(
    hub: Hub, session: aiohttp.ClientSession, small: HubFile, dest: Path
) -> None:
    """A mirror that makes up its listing does not send git's hash with the bytes."""
    small.blob_sha1, small.faults.etag = "0" * 40, '"mine"'
    await fetch(session, blob_of(hub, small), dest)
    assert dest.read_bytes() == small.content
    assert small.requests == 1


async def test_an_updated_small_file_of_the_same_size_is_fetched(
    hub: Hub, session: aiohttp.ClientSession, small: HubFile, dest: Path
) -> None:
    dest.parent.mkdir()
    dest.write_bytes(bytes(small.size_bytes))
    await fetch(session, blob_of(hub, small), dest)
    assert dest.read_bytes() == small.content
    await fetch(session, blob_of(hub, small), dest)
    assert small.requests == 1


async def test_a_large_file_without_a_hash_is_fetched_over_one_connection(
    hub: Hub, session: aiohttp.ClientSession, dest: Path
) -> None:
    """In segments, a failed one discarded the bytes of the others, and the transfer never ended."""
    content = model_bytes(3 * MIN_PIECE_BYTES)
    hub.add_repo(NAME, {"large": content}, lfs=False)
    file = hub.file(NAME, "large")
    file.faults.etag, file.faults.cut_after_bytes, file.faults.cut_times = "", MIN_PIECE_BYTES // 2, 2
    options = msgspec.structs.replace(OPTIONS, segments=4)
    await fetch(session, source_of(hub, file, hashed=False), dest, options)
    assert dest.read_bytes() == content
