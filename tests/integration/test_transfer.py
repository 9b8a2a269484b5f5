"""The bytes of one file, against a hub where everything goes wrong in turn."""

import hashlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from services.downloader.backoff import RetryPolicy
from services.downloader.errors import TransferError
from services.downloader.part_file import PartFile
from services.downloader.transfer import Source, fetch_file, open_session
from tests.hub import ALWAYS, Hub, HubFile
from tests.integration.downloads import MIB, model_bytes

SIZE_BYTES = 4 * MIB
CONTENT = model_bytes(SIZE_BYTES)
AUTHORIZATION = "Bearer hf_secret"
EAGER = RetryPolicy(attempts=3, first_pause_s=0.001, max_pause_s=0.002)
NAME = "org/tiny-GGUF"


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


def part_of(dest: Path) -> Path:
    return dest.with_name(dest.name + ".part")


def source_of(hub: Hub, remote: HubFile, *, hashed: bool = True) -> Source:
    url = f"{hub.url}/{NAME}/resolve/{hub.repos[NAME].sha}/{remote.path}"
    sha256 = remote.sha256 if hashed else None
    return Source(url=url, size_bytes=remote.size_bytes, sha256=sha256, authorization=AUTHORIZATION)


async def fetch(session: aiohttp.ClientSession, source: Source, dest: Path) -> list[int]:
    heard: list[int] = []
    await fetch_file(session, source, dest, on_bytes=heard.append, policy=EAGER, margin_bytes=0)
    assert not part_of(dest).exists()
    return heard


async def fail(session: aiohttp.ClientSession, source: Source, dest: Path) -> TransferError:
    with pytest.raises(TransferError) as caught:
        await fetch(session, source, dest)
    assert not dest.exists()
    assert caught.value.sentence.endswith(".")
    assert "hf_secret" not in caught.value.sentence
    return caught.value


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
    assert hub.seen[1].range == "bytes=1000000-"
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
    part_of(dest).parent.mkdir()
    part_of(dest).write_bytes(CONTENT[:MIB])
    remote.faults.cut_after_bytes = 0
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_unreachable"
    assert part_of(dest).read_bytes() == CONTENT[:MIB]


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


async def test_wrong_bytes_twice_end_it_and_leave_nothing(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.corrupt_times = ALWAYS
    assert (await fail(session, source_of(hub, remote), dest)).code == "hash_mismatch"
    assert list(dest.parent.iterdir()) == []
    assert remote.requests == 2


async def test_too_many_bytes_end_it(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.extra_bytes = b"more"
    assert (await fail(session, source_of(hub, remote), dest)).code == "hash_mismatch"


async def test_the_part_of_an_earlier_try_is_continued(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.mkdir()
    part_of(dest).write_bytes(CONTENT[: 3 * MIB])
    heard = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.bytes_sent == MIB
    assert heard[:3] == [MIB, 2 * MIB, 3 * MIB]


async def test_a_complete_part_needs_no_request(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.mkdir()
    part_of(dest).write_bytes(CONTENT)
    await fetch(session, source_of(hub, remote), dest)
    assert hub.seen == []


@pytest.mark.parametrize("stale", [b"\0" * MIB, b"\0" * SIZE_BYTES, b"\0" * (SIZE_BYTES + 1)])
async def test_a_part_of_something_else_heals(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, stale: bytes
) -> None:
    dest.parent.mkdir()
    part_of(dest).write_bytes(stale)
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT


async def test_a_server_without_ranges_starts_the_file_anew(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.mkdir()
    part_of(dest).write_bytes(CONTENT[:MIB])
    remote.faults.ignore_range = True
    heard = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert 0 in heard


async def test_a_file_that_shrank_at_the_hub_is_not_mixed_up(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """The hub answers 416 to a range behind the end; the part is dropped and the trouble told."""
    dest.parent.mkdir()
    part_of(dest).write_bytes(CONTENT[: 3 * MIB])
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
    await fetch_file(session, source, dest, on_bytes=change, policy=EAGER, margin_bytes=0)
    assert hub.seen[1].if_range == '"first"'
    assert dest.read_bytes() == other


async def test_without_a_hash_an_old_part_is_not_trusted(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.mkdir()
    part_of(dest).write_bytes(b"\0" * MIB)
    await fetch(session, source_of(hub, remote, hashed=False), dest)
    assert dest.read_bytes() == CONTENT


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
    assert hub.seen[3].range == f"bytes={MIB}-"


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
        await fetch_file(session, source_of(hub, remote), dest, margin_bytes=2**62)
    assert caught.value.code == "disk_full"
    assert hub.seen == []


def test_a_disk_that_fills_up_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransferError) as caught, PartFile(tmp_path / "m.part", lambda _: None) as part:
        part._file.close()
        part._file = open("/dev/full", "ab", buffering=0)  # noqa: PTH123, SIM115
        part.append(b"x")
    assert caught.value.code == "disk_full"


async def test_a_place_that_cannot_be_written_is_told(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(TransferError) as caught:
        await fetch_file(session, source_of(hub, remote), dest, margin_bytes=0)
    assert caught.value.code == "disk_error"


async def test_a_file_on_disk_is_streamed_by_the_hub(
    hub: Hub, session: aiohttp.ClientSession, tmp_path: Path, dest: Path
) -> None:
    big = tmp_path / "big.gguf"
    big.write_bytes(CONTENT)
    hub.add_repo(NAME, {"big.gguf": big})
    await fetch(session, source_of(hub, hub.file(NAME, "big.gguf")), dest)
    assert hashlib.sha256(dest.read_bytes()).hexdigest() == hub.file(NAME, "big.gguf").sha256


def test_a_source_does_not_print_its_token() -> None:
    source = Source(url="http://h/x", size_bytes=1, sha256=None, authorization=AUTHORIZATION)
    assert "hf_secret" not in f"{source!r} {source}"
