"""What the disk cannot take is told, and nothing outside the file's place is touched."""

import os
from pathlib import Path

import aiohttp
import pytest

from services.downloader.errors import TransferError
from services.downloader.part_file import PartFile
from services.downloader.source import Source
from services.downloader.transfer import Options, fetch_file
from tests.hub import Hub, HubFile
from tests.integration.transfer.fetching import OPTIONS, fail, part_of, source_of


async def test_a_link_in_the_place_of_a_part_leads_nowhere(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    dest.parent.mkdir()
    part_of(dest).symlink_to(outside)
    assert (await fail(session, source_of(hub, remote), dest)).code == "disk_error"
    assert outside.read_bytes() == b"precious"


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
