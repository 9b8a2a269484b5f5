"""Redirects, and the token that is sent to the hub only."""

from pathlib import Path

import aiohttp
import pytest

from services.downloader.transfer.options import FileSource
from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB
from tests.integration.transfer.support import AUTHORIZATION, CONTENT, SIZE_BYTES, fail, fetch, source_of


async def test_the_token_is_not_sent_to_the_cdn(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.redirect = "cdn"
    remote.faults.cut_after_bytes, remote.faults.cut_times = MIB, 1
    await fetch(session, source_of(hub, remote), dest)
    assert dest.read_bytes() == CONTENT
    assert [request.server for request in hub.requests] == ["hub", "cdn", "hub", "cdn"]
    tokens = {request.server: request.authorization for request in hub.requests}
    assert tokens == {"hub": AUTHORIZATION, "cdn": None}
    assert hub.requests[1].path.endswith("?signature=a%2Fb")
    assert hub.requests[3].range == f"bytes={MIB}-{SIZE_BYTES - 1}"


async def test_the_token_is_not_sent_to_another_host_name(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    """Same port, other host name: the hub redirects to itself as localhost."""
    path = source_of(hub, remote).url.removeprefix(hub.url)
    remote.faults.redirect = hub.url.replace("127.0.0.1", "localhost") + path
    await fail(session, source_of(hub, remote), dest)
    first, *others = hub.requests
    assert first.authorization == AUTHORIZATION
    assert len(others) == 5
    assert all(request.authorization is None for request in others)


async def test_an_expired_cdn_address_is_requested_again(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    remote.faults.redirect, remote.faults.statuses = "cdn", [403]
    await fetch(session, source_of(hub, remote), dest)
    assert [request.server for request in hub.requests] == ["hub", "cdn", "hub", "cdn"]


@pytest.mark.parametrize("redirect", ["loop", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://[bad"])
async def test_invalid_redirects_fail(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, redirect: str
) -> None:
    remote.faults.redirect = redirect
    assert (await fail(session, source_of(hub, remote), dest)).code == "hub_error"
    assert len(hub.requests) <= 6


def test_a_source_does_not_print_its_token() -> None:
    source = FileSource(url="http://h/x", size_bytes=1, sha256=None, authorization=AUTHORIZATION)
    assert "hf_secret" not in f"{source!r} {source}"
