"""The bytes of one file, against a hub where everything goes wrong in turn."""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from services.downloader.errors import TransferError
from services.downloader.part_file import PartFile
from services.downloader.source import Source
from services.downloader.throttle import Throttle
from services.downloader.transfer import MIN_PIECE_BYTES, Options, fetch_file, open_session
from tests.hub import ALWAYS, Hub, HubFile
from tests.integration.downloads import MIB, model_bytes
from tests.integration.transfers import (
    AUTHORIZATION,
    CONTENT,
    EAGER,
    NAME,
    OPTIONS,
    SIZE_BYTES,
    fail,
    fetch,
    left_behind,
    part_of,
    source_of,
)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with Hub() as hub:
        hub.add_repo(NAME, {"m-Q4_0.gguf": CONTENT})
        yield hub


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


@pytest.fixture
def remote(hub: Hub) -> HubFile:
    return hub.file(NAME, "m-Q4_0.gguf")


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "store" / "m-Q4_0.gguf"


async def test_a_file_arrives_and_its_bytes_are_told(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    heard = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert heard[-1] == SIZE_BYTES
    assert heard == sorted(heard)
    assert (remote.requests, remote.bytes_sent) == (1, SIZE_BYTES)


async def test_a_file_that_is_here_already_costs_nothing(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.mkdir()
    dest.write_bytes(CONTENT)
    assert (await fetch(session, source_of(hub, remote), dest))[-1] == SIZE_BYTES
    assert hub.seen == []


async def test_another_commits_bytes_of_the_same_number_are_replaced(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """Only the size used to be compared, so that an updated model of the same size was never fetched."""
    dest.parent.mkdir()
    dest.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


async def test_an_empty_file_arrives_without_a_request(
    session: aiohttp.ClientSession, hub: Hub, dest: Path
) -> None:
    hub.add_repo(NAME, {"empty.gguf": b""})
    await fetch(session, source_of(hub, hub.file(NAME, "empty.gguf")), dest)
    assert dest.read_bytes() == b""


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


async def test_a_hub_that_is_gone_ends_it(session: aiohttp.ClientSession, hub: Hub, dest: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and never listening: nobody else gets the port
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        source = Source(url=url, size_bytes=5, sha256="0" * 64)
        assert (await fail(session, source, dest)).code == "hub_unreachable"


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_passing_trouble_is_waited_out(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, status: int
) -> None:
    remote.faults.statuses = [status, status]
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.requests == 3


async def test_lasting_trouble_ends_it(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.statuses = [503] * 10
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_error"
    assert "answered 503 3 times" in error.sentence
    assert remote.requests == 3


async def test_retry_after_is_honoured(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.statuses, remote.faults.retry_after = [429], "1"
    started_s = time.monotonic()
    await fetch(session, source_of(hub, remote), dest)
    assert time.monotonic() - started_s >= 1.0


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "gated_repo"), (403, "gated_repo"), (404, "entry_not_found"), (400, "hub_error")],
)
async def test_a_plain_no_of_the_hub_ends_it_at_once(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, status: int, code: str
) -> None:
    remote.faults.statuses = [status]
    assert (await fail(session, source_of(hub, remote), dest)).code == code
    assert remote.requests == 1


async def test_a_gated_repository_is_named_as_such(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    hub.repos[NAME].gated = True
    assert (await fail(session, source_of(hub, remote), dest)).code == "gated_repo"
    hub.token = "hf_secret"
    await fetch(session, source_of(hub, remote), dest)


async def test_wrong_bytes_are_fetched_anew_once(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.corrupt_times = 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.requests == 2


async def test_wrong_bytes_again_and_again_end_it_and_leave_nothing(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.corrupt_times = ALWAYS
    assert (await fail(session, source_of(hub, remote), dest)).code == "hash_mismatch"
    assert list(dest.parent.iterdir()) == []
    assert remote.requests == 3


async def test_too_many_bytes_end_it(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.extra_bytes = b"more"
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_error"
    assert f"{SIZE_BYTES + 4} bytes instead of {SIZE_BYTES}" in error.sentence


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


async def test_a_link_in_the_place_of_a_part_leads_nowhere(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    dest.parent.mkdir()
    part_of(dest).symlink_to(outside)
    assert (await fail(session, source_of(hub, remote), dest)).code == "disk_error"
    assert outside.read_bytes() == b"precious"


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


async def test_a_body_shorter_than_listed_ends_it(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    source = source_of(hub, remote)
    remote.content, remote.size_bytes = CONTENT[:MIB], MIB
    error = await fail(session, source, dest)
    assert error.code == "hub_error"
    assert f"{MIB} bytes instead of {SIZE_BYTES}" in error.sentence


async def test_the_token_stays_with_the_hub(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.redirect = "cdn"
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert [seen.server for seen in hub.seen] == ["hub", "cdn", "hub", "cdn"]
    tokens = {seen.server: seen.authorization for seen in hub.seen}
    assert tokens == {"hub": AUTHORIZATION, "cdn": None}
    assert hub.seen[1].path.endswith("?signature=a%2Fb")
    assert hub.seen[3].range == f"bytes={MIB}-{SIZE_BYTES - 1}"


async def test_the_token_is_not_sent_to_another_host_by_name(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """Same port, other host name: the hub redirects to itself as localhost."""
    path = source_of(hub, remote).url.removeprefix(hub.url)
    remote.faults.redirect = hub.url.replace("127.0.0.1", "localhost") + path
    await fail(session, source_of(hub, remote), dest)
    first, *others = hub.seen
    assert first.authorization == AUTHORIZATION
    assert len(others) == 5
    assert all(seen.authorization is None for seen in others)


async def test_an_expired_address_at_the_cdn_is_asked_for_again(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.redirect, remote.faults.statuses = "cdn", [403]
    await fetch(session, source_of(hub, remote), dest)
    assert [seen.server for seen in hub.seen] == ["hub", "cdn", "hub", "cdn"]


@pytest.mark.parametrize("redirect", ["loop", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://[bad"])
async def test_redirects_to_nowhere_end_it(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, redirect: str
) -> None:
    remote.faults.redirect = redirect
    assert (await fail(session, source_of(hub, remote), dest)).code == "hub_error"
    assert len(hub.seen) <= 6


async def test_a_disk_too_small_is_told_before_the_first_byte(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    with pytest.raises(TransferError, match="Free some space") as caught:
        await fetch_file(session, source_of(hub, remote), dest, options=Options(margin_bytes=2**62))
    assert caught.value.code == "disk_full"
    assert hub.seen == []


def test_a_disk_that_fills_up_is_told(tmp_path: Path) -> None:
    source = Source(url="http://h/x", size_bytes=1, sha256="0" * 64)
    with pytest.raises(TransferError) as caught, PartFile(tmp_path / "m", source, lambda _: None) as part:
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, part.handle)
        os.close(full)
        part.write(0, b"x")
    assert caught.value.code == "disk_full"


async def test_a_place_that_cannot_be_written_is_told(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(TransferError) as caught:
        await fetch_file(session, source_of(hub, remote), dest, options=OPTIONS)
    assert caught.value.code == "disk_error"


async def test_a_file_on_disk_is_streamed_by_the_hub(
    hub: Hub, session: aiohttp.ClientSession, tmp_path: Path, dest: Path
) -> None:
    big = tmp_path / "big.gguf"
    big.write_bytes(CONTENT)
    hub.add_repo(NAME, {"big.gguf": big})
    await fetch(session, source_of(hub, hub.file(NAME, "big.gguf")), dest)
    assert hashlib.sha256(dest.read_bytes()).hexdigest() == hub.file(NAME, "big.gguf").sha256


LARGE_BYTES = 4 * MIN_PIECE_BYTES
LARGE = model_bytes(LARGE_BYTES, seed=3)
IN_SEGMENTS = msgspec.structs.replace(OPTIONS, segments=4)


@pytest.fixture
def large(hub: Hub) -> HubFile:
    hub.add_repo(NAME, {"large-Q4_0.gguf": LARGE})
    return hub.file(NAME, "large-Q4_0.gguf")


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


def test_a_source_does_not_print_its_token() -> None:
    source = Source(url="http://h/x", size_bytes=1, sha256=None, authorization=AUTHORIZATION)
    assert "hf_secret" not in f"{source!r} {source}"
