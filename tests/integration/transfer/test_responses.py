"""The transfer of one file against every kind of response of the hub."""

import hashlib
import socket
import time
from pathlib import Path

import aiohttp
import pytest

from services.downloader.transfer.options import FileSource
from tests.hub import ALWAYS, Hub, HubFile
from tests.integration.downloads import MIB
from tests.integration.transfer.support import CONTENT, NAME, SIZE_BYTES, fail, fetch, source_of


async def test_a_file_is_fetched_and_its_progress_reported(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    present = await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert present[-1] == SIZE_BYTES
    assert present == sorted(present)
    assert (remote.requests, remote.bytes_sent) == (1, SIZE_BYTES)


async def test_a_complete_file_is_not_requested(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.mkdir()
    dest.write_bytes(CONTENT)
    assert (await fetch(session, source_of(hub, remote), dest))[-1] == SIZE_BYTES
    assert hub.requests == []


async def test_an_empty_file_is_created_without_a_request(
    session: aiohttp.ClientSession, hub: Hub, dest: Path
) -> None:
    hub.add_repo(NAME, {"empty.gguf": b""})
    await fetch(session, source_of(hub, hub.file(NAME, "empty.gguf")), dest)
    assert dest.read_bytes() == b""


async def test_an_unreachable_hub_fails(session: aiohttp.ClientSession, hub: Hub, dest: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: no other process gets the port
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        source = FileSource(url=url, size_bytes=5, sha256="0" * 64)
        assert (await fail(session, source, dest)).code == "hub_unreachable"


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_transient_errors_are_retried(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, status: int
) -> None:
    remote.faults.statuses = [status, status]
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.requests == 3


async def test_lasting_errors_fail_after_all_attempts(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.statuses = [503] * 10
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_error"
    assert "answered 503 3 times" in error.sentence
    assert remote.requests == 3


async def test_retry_after_is_obeyed(
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
async def test_a_refusal_of_the_hub_fails_at_once(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, status: int, code: str
) -> None:
    remote.faults.statuses = [status]
    assert (await fail(session, source_of(hub, remote), dest)).code == code
    assert remote.requests == 1


async def test_a_gated_repository_has_its_own_code(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    hub.repos[NAME].gated = True
    assert (await fail(session, source_of(hub, remote), dest)).code == "gated_repo"
    hub.token = "hf_secret"
    await fetch(session, source_of(hub, remote), dest)


async def test_wrong_bytes_are_fetched_again(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.corrupt_times = 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert remote.requests == 2


async def test_wrong_bytes_fail_after_three_attempts_and_leave_no_file(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.corrupt_times = ALWAYS
    assert (await fail(session, source_of(hub, remote), dest)).code == "hash_mismatch"
    assert list(dest.parent.iterdir()) == []
    assert remote.requests == 3


async def test_too_many_bytes_fail(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.extra_bytes = b"more"
    error = await fail(session, source_of(hub, remote), dest)
    assert error.code == "hub_error"
    assert f"{SIZE_BYTES + 4} bytes instead of {SIZE_BYTES}" in error.sentence


async def test_a_body_shorter_than_listed_fails(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    source = source_of(hub, remote)
    remote.content, remote.size_bytes = CONTENT[:MIB], MIB
    error = await fail(session, source, dest)
    assert error.code == "hub_error"
    assert f"{MIB} bytes instead of {SIZE_BYTES}" in error.sentence


async def test_a_file_on_disk_is_streamed_by_the_hub(
    hub: Hub, session: aiohttp.ClientSession, tmp_path: Path, dest: Path
) -> None:
    big = tmp_path / "big.gguf"
    big.write_bytes(CONTENT)
    hub.add_repo(NAME, {"big.gguf": big})
    await fetch(session, source_of(hub, hub.file(NAME, "big.gguf")), dest)
    assert hashlib.sha256(dest.read_bytes()).hexdigest() == hub.file(NAME, "big.gguf").sha256
