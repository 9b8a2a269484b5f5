"""Files outside LFS, of which the hub lists no sha256: configurations, tokenizers, templates."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from services.downloader.source import Source
from services.downloader.transfer import MIN_PIECE_BYTES
from tests.hub import ALWAYS, Hub, HubFile
from tests.integration.downloads import model_bytes
from tests.integration.transfer.fetching import NAME, OPTIONS, fail, fetch, source_of


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


def blob_of(hub: Hub, small: HubFile) -> Source:
    return msgspec.structs.replace(source_of(hub, small, hashed=False), blob_sha1=small.blob_sha1)


async def test_a_small_file_with_wrong_bytes_is_fetched_anew(
    hub: Hub, session: aiohttp.ClientSession, small: HubFile, dest: Path
) -> None:
    """The hub lists the name that git has for the bytes, and says it again as their ETag."""
    small.faults.corrupt_times = 1
    await fetch(session, blob_of(hub, small), dest)
    assert dest.read_bytes() == small.content
    assert small.requests == 2


async def test_a_small_file_with_wrong_bytes_again_and_again_ends_it(
    hub: Hub, session: aiohttp.ClientSession, small: HubFile, dest: Path
) -> None:
    small.faults.corrupt_times = ALWAYS
    assert (await fail(session, blob_of(hub, small), dest)).code == "hash_mismatch"
    assert small.requests == 3


async def test_a_mirror_with_names_of_its_own_is_taken_at_its_word(
    hub: Hub, session: aiohttp.ClientSession, small: HubFile, dest: Path
) -> None:
    """Who makes up the listing does not send git's name along with the bytes."""
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


async def test_a_large_file_without_a_hash_comes_in_one_part_and_is_whole(
    hub: Hub, session: aiohttp.ClientSession, dest: Path
) -> None:
    """In segments, what one of them gave up was forgotten of the others, and it never ended."""
    content = model_bytes(3 * MIN_PIECE_BYTES)
    hub.add_repo(NAME, {"large": content}, lfs=False)
    file = hub.file(NAME, "large")
    file.faults.etag, file.faults.cut_after_bytes, file.faults.cut_times = "", MIN_PIECE_BYTES // 2, 2
    options = msgspec.structs.replace(OPTIONS, segments=4)
    await fetch(session, source_of(hub, file, hashed=False), dest, options)
    assert dest.read_bytes() == content
