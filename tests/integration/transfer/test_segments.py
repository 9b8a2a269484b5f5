"""A large file over several connections."""

import asyncio
import time
from pathlib import Path

import aiohttp
import msgspec

from services.downloader.transfer.file_transfer import MIN_PIECE_BYTES
from services.downloader.transfer.options import Throttle
from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB
from tests.integration.transfer.support import (
    IN_SEGMENTS,
    LARGE,
    LARGE_BYTES,
    fetch,
    source_of,
    write_part,
)


async def test_a_large_file_is_fetched_in_parallel_segments(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.bytes_per_s = 200 * MIB
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE
    assert large.bytes_sent == LARGE_BYTES
    starts = [int((request.range or "").removeprefix("bytes=").partition("-")[0]) for request in hub.requests]
    assert sorted(starts) == [piece * MIN_PIECE_BYTES for piece in range(4)]
    assert large.max_in_flight == 4


async def test_each_lost_segment_is_resumed(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.cut_after_bytes = MIN_PIECE_BYTES // 3
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE
    assert large.bytes_sent == LARGE_BYTES


async def test_a_server_without_ranges_sends_a_large_file_over_one_connection(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.ignore_range = True
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE


async def test_bytes_between_two_gaps_are_not_fetched_again(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    present = (MIN_PIECE_BYTES, 2 * MIN_PIECE_BYTES)
    write_part(dest, LARGE, large.sha256, present)
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE
    assert large.bytes_sent == 3 * MIN_PIECE_BYTES


async def test_retry_after_pauses_all_segments(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.statuses, large.faults.retry_after = [429], "1"
    problems: list[str] = []
    options = msgspec.structs.replace(IN_SEGMENTS, segments=2, on_problem=problems.append)
    started_s = time.monotonic()
    await fetch(session, source_of(hub, large), dest, options)
    assert time.monotonic() - started_s >= 1.0
    assert problems == ["The hub answered 429; trying again in 1 s."]


async def test_the_bandwidth_limit_covers_all_segments_and_can_be_removed(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    """With the first limit the file would take a minute."""
    options = msgspec.structs.replace(IN_SEGMENTS, throttle=Throttle())
    options.throttle.set_limit(MIB // 2)
    async with asyncio.timeout(15):
        fetching = asyncio.create_task(fetch(session, source_of(hub, large), dest, options))
        await hub.wait_until(lambda: large.requests == 4)
        await asyncio.sleep(0.5)
        assert not fetching.done()
        options.throttle.set_limit(None)
        await fetching
    assert dest.read_bytes() == LARGE
