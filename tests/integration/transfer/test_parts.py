"""What came before a cut or an end is kept, and what is kept is only believed as far as it can be."""

from pathlib import Path

import aiohttp
import pytest

from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB
from tests.integration.transfer.fetching import (
    CONTENT,
    EAGER,
    SIZE_BYTES,
    fail,
    fetch,
    left_behind,
    part_of,
    source_of,
)


async def test_one_cut_is_resumed_where_it_happened(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.cut_after_bytes, remote.faults.cut_times = 1_000_000, 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert hub.seen[1].range == f"bytes=1000000-{SIZE_BYTES - 1}"
    assert remote.bytes_sent == SIZE_BYTES


async def test_more_cuts_than_attempts_are_survived_as_long_as_bytes_arrive(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.cut_after_bytes = SIZE_BYTES // 10
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.requests > 3 * EAGER.attempts
    assert remote.bytes_sent == SIZE_BYTES


async def test_cuts_without_a_byte_end_it_and_keep_the_part(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    left_behind(dest, CONTENT[:MIB] + bytes(3 * MIB), remote.sha256, (0, MIB))
    remote.faults.cut_after_bytes = 0
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_unreachable"
    remote.faults.cut_after_bytes = None
    await fetch(session, source_of(hub, remote), dest)
    assert remote.bytes_sent == SIZE_BYTES - MIB


async def test_the_part_of_an_earlier_try_is_continued(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    left_behind(dest, CONTENT[: 3 * MIB] + bytes(MIB), remote.sha256, (0, MIB), (MIB, 3 * MIB))
    heard = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.bytes_sent == MIB
    assert heard[0] == 3 * MIB


async def test_a_complete_part_needs_no_request(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    left_behind(dest, CONTENT, remote.sha256, (0, SIZE_BYTES))
    await fetch(session, source_of(hub, remote), dest)
    assert hub.seen == []


@pytest.mark.parametrize("claimed", [MIB, SIZE_BYTES])
async def test_a_part_whose_journal_lies_heals(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, claimed: int
) -> None:
    left_behind(dest, bytes(SIZE_BYTES), remote.sha256, (0, claimed))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


@pytest.mark.parametrize("size_bytes", [0, MIB, SIZE_BYTES + 1])
async def test_a_part_of_another_size_is_not_continued(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, size_bytes: int
) -> None:
    left_behind(dest, bytes(SIZE_BYTES), remote.sha256, (0, SIZE_BYTES))
    part_of(dest).write_bytes(bytes(size_bytes))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.bytes_sent == SIZE_BYTES


async def test_another_commits_part_is_not_continued(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    left_behind(dest, bytes(SIZE_BYTES), "0" * 64, (0, MIB))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


async def test_a_server_without_ranges_sends_all_and_what_is_here_stays(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    left_behind(dest, CONTENT[:MIB] + bytes(3 * MIB), remote.sha256, (0, MIB))
    remote.faults.ignore_range = True
    heard = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert heard == sorted(heard)
    assert remote.requests == 2


async def test_a_file_that_shrank_at_the_hub_is_not_mixed_up(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """The hub answers 416 to a range behind the end; that is told."""
    left_behind(dest, CONTENT, remote.sha256, (0, 3 * MIB))
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
async def test_a_wrong_content_range_is_not_believed(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, content_range: str
) -> None:
    left_behind(dest, CONTENT[:MIB] + bytes(3 * MIB), remote.sha256, (0, MIB))
    remote.faults.content_range = content_range
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_error"
    assert "another part of the file" in error.sentence


async def test_a_server_that_sends_more_than_was_asked_for_is_cut_short(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    left_behind(dest, bytes(MIB) + CONTENT[MIB : 2 * MIB] + bytes(2 * MIB), remote.sha256, (MIB, 2 * MIB))
    remote.faults.ignore_range_end = True
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
