"""A large file in several pieces at the same time."""

import asyncio
import time
from pathlib import Path

import aiohttp
import msgspec

from services.downloader.throttle import Throttle
from services.downloader.transfer import MIN_PIECE_BYTES
from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB
from tests.integration.transfer.fetching import (
    IN_SEGMENTS,
    LARGE,
    LARGE_BYTES,
    fetch,
    left_behind,
    source_of,
)


async def test_a_large_file_comes_in_segments_at_the_same_time(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.bytes_per_s = 200 * MIB
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE
    assert large.bytes_sent == LARGE_BYTES
    starts = [int((seen.range or "").removeprefix("bytes=").partition("-")[0]) for seen in hub.seen]
    assert sorted(starts) == [piece * MIN_PIECE_BYTES for piece in range(4)]
    assert large.most_at_once == 4


async def test_segments_that_are_cut_are_each_resumed(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.cut_after_bytes = MIN_PIECE_BYTES // 3
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE
    assert large.bytes_sent == LARGE_BYTES


async def test_a_server_without_ranges_sends_a_large_file_in_one(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.ignore_range = True
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE


async def test_what_came_between_two_gaps_is_not_fetched_again(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    there = (MIN_PIECE_BYTES, 2 * MIN_PIECE_BYTES)
    left_behind(dest, LARGE, large.sha256, there)
    await fetch(session, source_of(hub, large), dest, IN_SEGMENTS)
    assert dest.read_bytes() == LARGE
    assert large.bytes_sent == 3 * MIN_PIECE_BYTES


async def test_a_wish_to_be_left_alone_holds_for_all_segments(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    large.faults.statuses, large.faults.retry_after = [429], "1"
    told: list[str] = []
    options = msgspec.structs.replace(IN_SEGMENTS, segments=2, on_trouble=told.append)
    started_s = time.monotonic()
    await fetch(session, source_of(hub, large), dest, options)
    assert time.monotonic() - started_s >= 1.0
    assert told == ["The hub answered 429; trying again in 1 s."]


async def test_a_limit_holds_for_all_segments_together_and_can_be_lifted(
    hub: Hub, session: aiohttp.ClientSession, large: HubFile, dest: Path
) -> None:
    """At the first limit the file would take a minute."""
    options = msgspec.structs.replace(IN_SEGMENTS, throttle=Throttle())
    options.throttle.limit(MIB // 2)
    async with asyncio.timeout(15):
        fetching = asyncio.create_task(fetch(session, source_of(hub, large), dest, options))
        await hub.wait_until(lambda: large.requests == 4)
        await asyncio.sleep(0.5)
        assert not fetching.done()
        options.throttle.limit(None)
        await fetching
    assert dest.read_bytes() == LARGE
