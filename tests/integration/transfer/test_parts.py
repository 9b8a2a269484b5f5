"""Parts are resumed after a lost connection or a restart, and trusted only as far as the journal allows."""

from pathlib import Path

import aiohttp
import pytest

from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB
from tests.integration.transfer.support import (
    CONTENT,
    EAGER,
    SIZE_BYTES,
    fail,
    fetch,
    part_of,
    source_of,
    write_part,
)


async def test_a_lost_connection_is_resumed_where_it_broke(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.cut_after_bytes, remote.faults.cut_times = 1_000_000, 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert hub.requests[1].range == f"bytes=1000000-{SIZE_BYTES - 1}"
    assert remote.bytes_sent == SIZE_BYTES


async def test_attempts_are_not_exhausted_while_bytes_arrive(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.cut_after_bytes = SIZE_BYTES // 10
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.requests > 3 * EAGER.attempts
    assert remote.bytes_sent == SIZE_BYTES


async def test_attempts_without_bytes_fail_and_keep_the_part(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    write_part(dest, CONTENT[:MIB] + bytes(3 * MIB), remote.sha256, (0, MIB))
    remote.faults.cut_after_bytes = 0
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_unreachable"
    remote.faults.cut_after_bytes = None
    await fetch(session, source_of(hub, remote), dest)
    assert remote.bytes_sent == SIZE_BYTES - MIB


async def test_the_part_of_an_earlier_process_is_resumed(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    write_part(dest, CONTENT[: 3 * MIB] + bytes(MIB), remote.sha256, (0, MIB), (MIB, 3 * MIB))
    present = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.bytes_sent == MIB
    assert present[0] == 3 * MIB


async def test_a_complete_part_needs_no_request(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    write_part(dest, CONTENT, remote.sha256, (0, SIZE_BYTES))
    await fetch(session, source_of(hub, remote), dest)
    assert hub.requests == []


@pytest.mark.parametrize("claimed", [MIB, SIZE_BYTES])
async def test_a_journal_that_claims_too_much_is_corrected(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, claimed: int
) -> None:
    write_part(dest, bytes(SIZE_BYTES), remote.sha256, (0, claimed))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


@pytest.mark.parametrize("size_bytes", [0, MIB, SIZE_BYTES + 1])
async def test_a_part_of_another_size_is_not_resumed(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, size_bytes: int
) -> None:
    write_part(dest, bytes(SIZE_BYTES), remote.sha256, (0, SIZE_BYTES))
    part_of(dest).write_bytes(bytes(size_bytes))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.bytes_sent == SIZE_BYTES


async def test_a_part_of_another_commit_is_not_resumed(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    write_part(dest, bytes(SIZE_BYTES), "0" * 64, (0, MIB))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


async def test_a_server_without_ranges_sends_the_whole_file_and_present_bytes_stay(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    write_part(dest, CONTENT[:MIB] + bytes(3 * MIB), remote.sha256, (0, MIB))
    remote.faults.ignore_range = True
    present = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert present == sorted(present)
    assert remote.requests == 2


async def test_a_file_that_became_shorter_at_the_hub_fails(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """The hub answers 416 to a range behind the end."""
    write_part(dest, CONTENT, remote.sha256, (0, 3 * MIB))
    source = source_of(hub, remote)
    remote.content, remote.size_bytes = CONTENT[:MIB], MIB
    assert (await fail(session, source, dest)).code == "hub_error"


@pytest.mark.parametrize(
    "content_range",
    [
        "bytes 0-1/4194304",
        "bytes 1048576-4194303/999",
        "bytes 1048575-4194303/4194304",
        "bytes x",
        "bytes */1",
    ],
)
async def test_a_wrong_content_range_is_refused(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, content_range: str
) -> None:
    write_part(dest, CONTENT[:MIB] + bytes(3 * MIB), remote.sha256, (0, MIB))
    remote.faults.content_range = content_range
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_error"
    assert "another part of the file" in error.sentence


async def test_bytes_beyond_the_requested_range_are_ignored(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    write_part(dest, bytes(MIB) + CONTENT[MIB : 2 * MIB] + bytes(2 * MIB), remote.sha256, (MIB, 2 * MIB))
    remote.faults.ignore_range_end = True
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
