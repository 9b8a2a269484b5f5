"""One file of a hub on loopback: fetches of it, and parts left by an earlier process."""

from pathlib import Path

import aiohttp
import msgspec
import pytest

from services.downloader.errors import TransferError
from services.downloader.transfer.file_transfer import MIN_PIECE_BYTES, TransferOptions, fetch_file
from services.downloader.transfer.journal import Journal
from services.downloader.transfer.options import FileSource, RetryPolicy
from tests.hub import Hub, HubFile
from tests.integration.downloads import MIB, model_bytes

SIZE_BYTES = 4 * MIB
CONTENT = model_bytes(SIZE_BYTES)
AUTHORIZATION = "Bearer hf_secret"
EAGER = RetryPolicy(attempts=3, first_pause_s=0.001, max_pause_s=0.002, unreachable_s=0.0)
OPTIONS = TransferOptions(retry_policy=EAGER, margin_bytes=0)
NAME = "org/tiny-GGUF"
LARGE_BYTES = 4 * MIN_PIECE_BYTES
LARGE = model_bytes(LARGE_BYTES, seed=3)
IN_SEGMENTS = msgspec.structs.replace(OPTIONS, segments=4)


def part_of(dest: Path) -> Path:
    return dest.with_name(dest.name + ".part")


def journal_of(dest: Path) -> Path:
    return dest.with_name(dest.name + ".jrnl")


def write_part(dest: Path, content: bytes, sha256: str | None, *ranges: tuple[int, int]) -> None:
    """Write a part with its journal, as an earlier process leaves them."""
    dest.parent.mkdir(exist_ok=True)
    part_of(dest).write_bytes(content)
    journal = Journal(journal_of(dest), len(content), sha256)
    for start, end in ranges:
        journal.add_written(start, end)
    journal.close()


def source_of(hub: Hub, remote: HubFile, *, hashed: bool = True) -> FileSource:
    url = f"{hub.url}/{NAME}/resolve/{hub.repos[NAME].sha}/{remote.path}"
    sha256 = remote.sha256 if hashed else None
    commit = hub.repos[NAME].sha
    return FileSource(
        url=url, size_bytes=remote.size_bytes, sha256=sha256, commit=commit, authorization=AUTHORIZATION
    )


async def fetch(
    session: aiohttp.ClientSession, source: FileSource, dest: Path, options: TransferOptions = OPTIONS
) -> list[int]:
    present: list[int] = []
    await fetch_file(session, source, dest, on_bytes=present.append, options=options)
    assert list(dest.parent.iterdir()) == [dest]
    return present


def has_bytes(dest: Path) -> bool:
    """Whether the part has bytes."""
    return journal_of(dest).exists() and b'"written"' in journal_of(dest).read_bytes()


async def fail(session: aiohttp.ClientSession, source: FileSource, dest: Path) -> TransferError:
    with pytest.raises(TransferError) as caught:
        await fetch(session, source, dest)
    assert not dest.exists()
    assert has_bytes(dest) or list(dest.parent.glob("*")) == [], "a part without bytes is deleted"
    assert caught.value.sentence.endswith(".")
    assert "hf_secret" not in caught.value.sentence
    return caught.value
