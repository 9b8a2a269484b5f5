"""Bytes of two versions of a file are never mixed, with a hash or an etag or neither."""

from pathlib import Path

import aiohttp
import pytest

from services.downloader.transfer import fetch_file
from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB, model_bytes
from tests.integration.transfer.fetching import (
    CONTENT,
    OPTIONS,
    SIZE_BYTES,
    fail,
    fetch,
    left_behind,
    source_of,
)


async def test_another_commits_bytes_of_the_same_number_are_replaced(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """Only the size used to be compared, so that an updated model of the same size was never fetched."""
    dest.parent.mkdir()
    dest.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


async def test_without_a_hash_a_changed_etag_starts_the_file_anew(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """The first answer is cut; before the second one the file becomes another of the same size."""
    other = model_bytes(SIZE_BYTES, seed=2)
    remote.faults.cut_after_bytes, remote.faults.cut_times, remote.faults.etag = MIB, 1, '"first"'

    def change(done_bytes: int) -> None:
        if done_bytes == MIB:
            remote.content, remote.faults.etag = other, '"second"'

    source = source_of(hub, remote, hashed=False)
    await fetch_file(session, source, dest, on_bytes=change, options=OPTIONS)
    assert hub.seen[1].if_range == '"first"'
    assert dest.read_bytes() == other


async def test_without_a_hash_an_old_part_is_not_trusted(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    left_behind(dest, bytes(SIZE_BYTES), None, (0, MIB))
    await fetch(session, source_of(hub, remote, hashed=False), dest)
    assert dest.read_bytes() == CONTENT


async def test_without_a_hash_and_an_etag_every_attempt_starts_anew(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.lfs, remote.faults.etag = False, ""
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1
    await fetch(session, source_of(hub, remote, hashed=False), dest)
    assert dest.read_bytes() == CONTENT
    assert [seen.range for seen in hub.seen] == [None, None]


async def test_with_a_hash_no_etag_is_needed(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.lfs, remote.faults.etag = False, ""
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.bytes_sent == SIZE_BYTES


async def test_an_etag_that_changes_on_the_way_starts_the_file_anew(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """The host sent another file at first; what came of it is not mixed with the right one."""
    source, right = source_of(hub, remote), remote.content
    remote.lfs, remote.content, remote.faults.etag = False, model_bytes(SIZE_BYTES, seed=2), '"first"'
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1

    def change(done_bytes: int) -> None:
        if done_bytes == MIB:
            remote.content, remote.faults.etag = right, '"second"'

    await fetch_file(session, source, dest, on_bytes=change, options=OPTIONS)
    assert dest.read_bytes() == CONTENT
    assert [seen.range for seen in hub.seen] == [None, f"bytes={MIB}-{SIZE_BYTES - 1}", None]


@pytest.mark.parametrize(
    "headers", [{"X-Repo-Commit": "b" * 40}, {"X-Linked-Etag": f'"{"0" * 64}"'}, {"ETag": f'"{"0" * 64}"'}]
)
async def test_another_version_at_the_hub_ends_it_at_once(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, headers: dict[str, str]
) -> None:
    remote.lfs, remote.faults.extra_headers = False, headers
    assert (await fail(session, source_of(hub, remote), dest)).code == "changed_at_hub"
    assert remote.requests == 1
