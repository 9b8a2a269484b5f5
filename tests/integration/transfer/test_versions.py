"""Bytes of two versions of a file are never mixed, with a hash, an ETag or neither."""

from pathlib import Path

import aiohttp
import pytest

from services.downloader.transfer.file_transfer import fetch_file
from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB, model_bytes
from tests.integration.transfer.support import (
    CONTENT,
    OPTIONS,
    SIZE_BYTES,
    fail,
    fetch,
    source_of,
    write_part,
)


async def test_a_file_of_another_commit_with_the_same_size_is_replaced(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """Only sizes used to be compared: an updated model of the same size was never fetched."""
    dest.parent.mkdir()
    dest.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


async def test_without_a_hash_a_changed_etag_restarts_the_file(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """The first response breaks off; before the second one the file changes, with the same size."""
    other = model_bytes(SIZE_BYTES, seed=2)
    remote.faults.cut_after_bytes, remote.faults.cut_times, remote.faults.etag = MIB, 1, '"first"'

    def change(done_bytes: int) -> None:
        if done_bytes == MIB:
            remote.content, remote.faults.etag = other, '"second"'

    source = source_of(hub, remote, hashed=False)
    await fetch_file(session, source, dest, on_bytes=change, options=OPTIONS)
    assert hub.requests[1].if_range == '"first"'
    assert dest.read_bytes() == other


async def test_without_a_hash_an_old_part_is_discarded(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    write_part(dest, bytes(SIZE_BYTES), None, (0, MIB))
    await fetch(session, source_of(hub, remote, hashed=False), dest)
    assert dest.read_bytes() == CONTENT


async def test_without_hash_and_etag_every_attempt_restarts(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.lfs, remote.faults.etag = False, ""
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1
    await fetch(session, source_of(hub, remote, hashed=False), dest)
    assert dest.read_bytes() == CONTENT
    assert [request.range for request in hub.requests] == [None, None]


async def test_with_a_hash_no_etag_is_required(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.lfs, remote.faults.etag = False, ""
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.bytes_sent == SIZE_BYTES


async def test_an_etag_that_changes_during_a_transfer_restarts_the_file(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """The host sent another file at first; its bytes are not mixed with the right ones."""
    source, right = source_of(hub, remote), remote.content
    remote.lfs, remote.content, remote.faults.etag = False, model_bytes(SIZE_BYTES, seed=2), '"first"'
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1

    def change(done_bytes: int) -> None:
        if done_bytes == MIB:
            remote.content, remote.faults.etag = right, '"second"'

    await fetch_file(session, source, dest, on_bytes=change, options=OPTIONS)
    assert dest.read_bytes() == CONTENT
    assert [request.range for request in hub.requests] == [None, f"bytes={MIB}-{SIZE_BYTES - 1}", None]


@pytest.mark.parametrize(
    "headers", [{"X-Repo-Commit": "b" * 40}, {"X-Linked-Etag": f'"{"0" * 64}"'}, {"ETag": f'"{"0" * 64}"'}]
)
async def test_another_version_at_the_hub_fails_at_once(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, headers: dict[str, str]
) -> None:
    remote.lfs, remote.faults.extra_headers = False, headers
    assert (await fail(session, source_of(hub, remote), dest)).code == "changed_at_hub"
    assert remote.requests == 1
