"""Disk errors fail a transfer, and nothing but the destination is written."""

import os
from pathlib import Path

import aiohttp
import pytest

from services.downloader.errors import TransferError
from services.downloader.transfer.file_transfer import TransferOptions, fetch_file
from services.downloader.transfer.options import FileSource
from services.downloader.transfer.part_file import PartFile
from tests.hub import Hub, HubFile
from tests.integration.transfer.support import OPTIONS, fail, part_of, source_of


async def test_a_symlink_in_place_of_a_part_is_not_followed(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    dest.parent.mkdir()
    part_of(dest).symlink_to(outside)
    assert (await fail(session, source_of(hub, remote), dest)).code == "disk_error"
    assert outside.read_bytes() == b"precious"


async def test_a_disk_without_enough_space_fails_before_the_first_request(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    with pytest.raises(TransferError, match="Free some space") as caught:
        await fetch_file(session, source_of(hub, remote), dest, options=TransferOptions(margin_bytes=2**62))
    assert caught.value.code == "disk_full"
    assert hub.requests == []


def test_a_disk_that_fills_up_fails_the_write(tmp_path: Path) -> None:
    source = FileSource(url="http://h/x", size_bytes=1, sha256="0" * 64)
    with pytest.raises(TransferError) as caught, PartFile(tmp_path / "m", source, lambda _: None) as part:
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, part.handle)
        os.close(full)
        part.write(0, b"x")
    assert caught.value.code == "disk_full"


async def test_an_unwritable_destination_fails(
    hub: Hub, session: aiohttp.ClientSession, remote: HubFile, dest: Path
) -> None:
    dest.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(TransferError) as caught:
        await fetch_file(session, source_of(hub, remote), dest, options=OPTIONS)
    assert caught.value.code == "disk_error"
