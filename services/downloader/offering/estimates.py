"""Memory estimates for what a repository offers, from a few bytes of its files."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from modelyard.gguf.errors import GgufError
from modelyard.gguf.header import Header, make_header
from modelyard.safetensors import CARD_FILE_BYTES, CARD_FILES, Card, read_card
from services.downloader.errors import DownloadError
from services.downloader.selection.files import RemoteFile
from services.downloader.selection.gguf import Group

if TYPE_CHECKING:
    from services.downloader.hub.remote_files import RemoteFiles

_KEPT = 64
_TIMEOUT_S = 20.0
"""Somebody waits for the offer; sizes alone are worth something too."""


class Read(Struct, frozen=True, kw_only=True):
    """What the bytes of one file said, or why they did not."""

    header: Header | None = None
    problem: str | None = None


class Headers:
    """Headers of files on the hub; the last ones are kept, since a commit never changes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str], Header] = OrderedDict()

    async def read(self, repo: str, commit: str, group: Group) -> Read:
        """The header of a model's first file; where it is refused or makes no sense, there is a problem."""
        file = group.in_order[0]
        key = (repo, commit, file.path)
        if (known := self._kept.get(key)) is None:
            try:
                async with asyncio.timeout(_TIMEOUT_S), _remote(repo, commit) as remote:
                    contents = await remote.header(file)
                known = await asyncio.to_thread(make_header, contents, n_shards=group.shards)
            except GgufError as error:
                return Read(problem=f"{file.path} cannot be read: {error}")
            except DownloadError as error:
                return Read(problem=error.sentence)
            except TimeoutError:
                return Read(problem=f"{file.path} could not be read within {_TIMEOUT_S:g} s; try again.")
        self._kept[key] = known
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return Read(header=known)


async def read_remote_card(repo: str, commit: str, files: Sequence[RemoteFile]) -> Card:
    """What the small files of a repository say; what is refused or missing says nothing."""
    wanted = [file for file in files if file.path in CARD_FILES]
    async with _remote(repo, commit) as remote:
        texts = await asyncio.gather(*(_text(remote, file) for file in wanted))
    found: Mapping[str, bytes] = {
        file.path: text for file, text in zip(wanted, texts, strict=True) if text is not None
    }
    return read_card(found)


@asynccontextmanager
async def _remote(repo: str, commit: str) -> AsyncIterator["RemoteFiles"]:
    # Who is never asked for an offer need not load an HTTP client.
    from services.downloader.hub.remote_files import RemoteFiles
    from services.downloader.transfer.file_transfer import open_session

    async with open_session() as session:
        yield RemoteFiles(session, repo, commit)


async def _text(remote: "RemoteFiles", file: RemoteFile) -> bytes | None:
    try:
        return await remote.text(file, CARD_FILE_BYTES)
    except DownloadError:
        return None
